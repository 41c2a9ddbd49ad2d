"""PPO-ptx: the SFT loss in PPO's own optimizer step, against forgetting (Ouyang et al. 2022, eq. 2).

Their term is the pretraining loss; here it is that of the SFT split, the text a recipe has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf.errors import DataError, TrainingError
from rlhf.models.forward import hidden_states, pad_right
from rlhf.models.load import output_head_of
from rlhf.models.transfer import to_device
from rlhf.ppo.actor_critic import ActorCritic, chunk_tokens_of
from rlhf.ppo.losses import token_logprobs
from rlhf.ppo.micro_batches import MicroBatches, padded_tokens
from rlhf.ppo.prompts import permutation
from rlhf.recipe.ppo import PPOSection

PTX_STREAM = 2


@dataclass(frozen=True)
class SFTRow:
    """A sequence for the SFT loss.

    Attributes:
        input_ids: token ids.
        labels_mask: True: the loss counts the token (the first one never: nothing predicts it).
        weight: times the row's loss; the divisor stays.
    """

    input_ids: list[int]
    labels_mask: list[bool]
    weight: float = 1.0

    @property
    def num_labels(self) -> int:
        """Tokens that the loss counts."""
        return sum(self.labels_mask[1:])


class PTX:
    """Adds the gradient of the SFT loss to that of a PPO minibatch.

    Args:
        rows: the SFT split, the same on every rank.
        section: the recipe's `ppo`.
        accelerator: Accelerate's handle on the processes.
        seed: the stage's.

    Raises:
        DataError: no row has a label.
    """

    def __init__(
        self, rows: Sequence[SFTRow], section: PPOSection, *, accelerator: Accelerator, seed: int
    ) -> None:
        if not any(row.num_labels for row in rows):
            raise DataError(
                f"ppo.ptx_coef needs SFT rows with a label to predict; none of {len(rows)} has one",
                "Look at data.sft.train and sft.max_length, or set ppo.ptx_coef: 0.",
            )
        self.rows = rows
        self.section = section
        self.accelerator = accelerator
        self.seed = seed
        self.micro_batches = MicroBatches(section)

    def state_dict(self) -> dict[str, Any]:
        """What was found to fit."""
        return self.micro_batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.micro_batches.load_state_dict(state)

    def chosen(self, step: int, update: int) -> list[int]:
        """The rows of one update, over all ranks: a function of seed, step and update; none twice before all once."""
        size, chosen, draw = self.section.ptx_batch_size, list[int](), 0
        while len(chosen) < size:
            chosen += permutation(len(self.rows), self.seed, step, update, PTX_STREAM, draw).tolist()
            draw += 1
        return chosen[:size]

    def backward(self, model: nn.Module, step: int, update: int) -> Tensor:
        """This rank's share of `ptx_coef` x the SFT loss becomes the policy's gradients, a minibatch's first.

        No gradient is exchanged: what has accumulated is, after the PPO passes that follow. Where memory runs out, all
        ranks cut finer and pass anew.

        Args:
            model: the actor-critic, prepared, without gradients.
            step: counts from 0.
            update: of the step, from 0.

        Returns:
            0-dim float32 without gradient: this rank's share of the loss, without the coefficient. The sum over ranks
            is the mean over the label tokens of the global batch.

        Raises:
            TrainingError: memory does not hold a single row.
        """
        accelerator = self.accelerator
        chosen = [self.rows[row] for row in self.chosen(step, update)]
        num_tokens = max(1, sum(row.num_labels for row in chosen))
        mine = chosen[accelerator.process_index :: accelerator.num_processes]
        lengths = [(0, len(row.input_ids)) for row in mine]
        policy = cast(ActorCritic, accelerator.unwrap_model(model)).policy
        while True:
            parts = self.micro_batches.split(range(len(mine)), lengths)
            total, failed = self._pass_each(policy, mine, parts, num_tokens)
            tokens = padded_tokens(failed, lengths) if failed else None
            if not self.micro_batches.shrink(tokens, accelerator):
                return total
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def _pass_each(
        self, policy: nn.Module, rows: Sequence[SFTRow], parts: list[list[int]], num_tokens: int
    ) -> tuple[Tensor, list[int]]:
        """The loss, and the micro-batch that did not fit, if any."""
        accelerator = self.accelerator
        total = torch.zeros((), device=accelerator.device)
        for part in parts:
            try:
                with accelerator.autocast():
                    loss = sft_loss(policy, [rows[row] for row in part], num_tokens, accelerator.device)
                accelerator.backward(loss * self.section.ptx_coef)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    length = len(rows[part[0]].input_ids)
                    raise TrainingError(
                        f"the device's memory does not hold one SFT row of PPO-ptx ({length} tokens)",
                        "Set ppo.gradient_checkpointing: true, a shorter sft.max_length, or ppo.ptx_coef: 0.",
                    ) from None
                return total, part
            total += loss.detach()
        return total, []


def sft_loss(policy: nn.Module, rows: Sequence[SFTRow], num_tokens: int, device: torch.device) -> Tensor:
    """Cross-entropy (0-dim float32, nats) of the rows' label tokens at temperature 1, summed over num_tokens."""
    ids, attention = pad_right([row.input_ids for row in rows], device)
    labels = pad_right([[int(kept) for kept in row.labels_mask] for row in rows], device)[0].bool()
    read, num_read = labels[:, 1:], sum(sum(row.labels_mask[1:]) for row in rows)
    hidden = hidden_states(
        policy, ids, attention, ids.shape[1], wanted=slice(-1), read=read, num_read=num_read
    )
    # Flat, since label tokens of several turns leave holes, which a mask over time may not have.
    logprobs, _ = token_logprobs(
        hidden.flatten(0, 1),
        cast(Any, output_head_of(policy)),
        ids[:, 1:].flatten(),
        temperature=1.0,
        mask=read.flatten(),
        chunk_tokens=chunk_tokens_of(policy),
        num_kept=num_read,
    )
    weights = to_device(torch.tensor([row.weight for row in rows], dtype=torch.float32), device)
    return -(logprobs.view(len(rows), -1).sum(dim=1) * weights).sum() / num_tokens
