"""One rank of a PPO stage, started by torchrun: `ppo_rank.py RUN_FOLDER`; writes down what it really ran as."""

import json
import sys
from pathlib import Path

from rlhf.ppo.trainer import PPOTrainer
from rlhf.stages import ppo
from rlhf.stages.context import StageContext


class Noted(PPOTrainer):
    """Leaves its world size and its model's class in the stage's folder."""

    def train(self) -> bool:
        """As PPOTrainer."""
        note = {"processes": self.accelerator.num_processes, "wrapper": type(self.model).__name__}
        path = context.folder / f"rank-{self.accelerator.process_index}.json"
        path.write_text(json.dumps(note), encoding="utf-8")
        return super().train()


context = StageContext.read(Path(sys.argv[1]), "ppo")
ppo.PPOTrainer = Noted
ppo.run(context)
