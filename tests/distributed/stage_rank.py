"""One rank of one stage or of several: `stage_rank.py RUN_FOLDER STAGE…`; writes down what it really ran as."""

import json
import sys
from pathlib import Path

from torch.distributed.fsdp import FSDPModule

from rlhf.ppo.trainer import PPOTrainer
from rlhf.stages import hf_trainer, ppo, reward, sft
from rlhf.stages.context import StageContext
from rlhf.stages.ending import end_in_order
from rlhf.stages.sharded import prepare_process

run_folder, stages = Path(sys.argv[1]), sys.argv[2:]
prepare_process()
contexts = {stage: StageContext.read(run_folder, stage) for stage in stages}
real_train = hf_trainer.train


def write_note(stage, accelerator, wrapped, **more):
    """Number of processes, wrapper class, and how much of the weights this rank holds."""
    local = sum(
        (each.to_local() if hasattr(each, "to_local") else each).numel() for each in wrapped.parameters()
    )
    note = {
        "processes": accelerator.num_processes,
        "wrapper": "FSDPModule" if isinstance(wrapped, FSDPModule) else type(wrapped).__name__,
        "local": local,
        "reuse_distance": reuse_distance(wrapped),
        **more,
    }
    path = contexts[stage].folder / f"rank-{accelerator.process_index}.json"
    path.write_text(json.dumps(note), encoding="utf-8")


def reuse_distance(wrapped):
    """How far DeepSpeed's engine looks ahead before it frees a module's weights; None for other wrappers."""
    config = getattr(wrapped, "_config", None)
    return None if config is None else config.zero_config.max_reuse_distance


def train(trainer, context, section):
    """As the runners' own, with a note that has each step's gradient norm."""
    norms = []
    real_norm = trainer._get_grad_norm

    def noted(*args, **kwargs):
        norm = real_norm(*args, **kwargs)
        norms.append(float(norm))
        return norm

    trainer._get_grad_norm = noted
    done = real_train(trainer, context, section)
    write_note(context.stage, trainer.accelerator, trainer.model_wrapped, norms=norms)
    return done


class Noted(PPOTrainer):
    """Leaves its note before it trains."""

    def train(self) -> bool:
        """As PPOTrainer."""
        write_note("ppo", self.accelerator, self.model, resumed_from=self.step)
        return super().train()


sft.train = reward.train = train
ppo.PPOTrainer = Noted
for name in stages:
    {"sft": sft.run, "reward": reward.run, "ppo": ppo.run}[name](contexts[name])
end_in_order(0)
