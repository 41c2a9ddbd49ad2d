"""One rank of an SFT or reward stage: `stage_rank.py RUN_FOLDER STAGE`; writes down what it really ran as."""

import json
import sys
from pathlib import Path

from torch.distributed.fsdp import FSDPModule

from rlhf.stages import hf_trainer, reward, sft
from rlhf.stages.context import StageContext
from rlhf.stages.sharded import prepare_process

stage = sys.argv[2]
prepare_process()
context = StageContext.read(Path(sys.argv[1]), stage)
real_train = hf_trainer.train


def train(trainer, *arguments):
    """As the runners' own, with a note of processes, wrapper, and how much of the weights this rank holds."""
    norms = []
    real_norm = trainer._get_grad_norm

    def noted(*args, **kwargs):
        norm = real_norm(*args, **kwargs)
        norms.append(float(norm))
        return norm

    trainer._get_grad_norm = noted
    done = real_train(trainer, *arguments)
    model = trainer.model_wrapped
    local = sum(
        (each.to_local() if hasattr(each, "to_local") else each).numel() for each in model.parameters()
    )
    note = {
        "processes": trainer.accelerator.num_processes,
        "wrapper": "FSDPModule" if isinstance(model, FSDPModule) else type(model).__name__,
        "local": local,
        "norms": norms,
    }
    path = context.folder / f"rank-{trainer.accelerator.process_index}.json"
    path.write_text(json.dumps(note), encoding="utf-8")
    return done


sft.train = reward.train = train
{"sft": sft.run, "reward": reward.run}[stage](context)
