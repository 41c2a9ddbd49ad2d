"""PPO whose update takes one plain gradient step, for tests of its options."""

import dataclasses
import math

import torch
from tiny_ppo import TinyPPO, section_of

from rlhf.ppo.ptx import PTX, SFTRow
from rlhf.ppo.update import Updater

SFT_ROWS = [
    SFTRow([3, 7, 1, 9, 22], [False, True, False, True, True]),
    SFTRow([8, 8, 4, 22], [False, False, True, True], weight=2.0),
    SFTRow([2, 16, 9, 1, 5, 22], [True] * 6),
]
NUM_SFT_LABELS = 3 + 2 + 5
ANY_RATIO = {"max_ratio_deviation": 100.0}


def knobs(*, kind="gpt2", sft_rows=SFT_ROWS, **changes):
    """PPO with plain gradient descent at rate 1, so that a step shows the gradient itself."""
    section = section_of(**({"learning_rate": 1.0, "max_grad_norm": 1e6} | changes))
    ppo = TinyPPO(section.model_copy(update={"ptx_coef": 0.0}), kind=kind)
    ppo.optimizer = torch.optim.SGD(
        [{"params": list(getattr(ppo, role).parameters()), "role": role} for role in ("policy", "critic")]
    )
    ppo.updater = Updater(
        section,
        accelerator=ppo.accelerator,
        model=ppo.model,
        optimizer=ppo.optimizer,
        seed=11,
        ptx=PTX(sft_rows, section, accelerator=ppo.accelerator, seed=11) if section.ptx_coef else None,
    )
    return ppo


def moved_away(rollout, seed=0):
    """Old log-probabilities far from the policy's own: ratios between 1/8 and 8, so that every clip is reached."""
    shift = torch.rand(rollout.logprobs.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    moved = rollout.logprobs + shift * math.log(8.0) * rollout.response_mask
    return dataclasses.replace(rollout, logprobs=moved)
