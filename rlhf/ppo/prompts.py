"""Which prompts a step answers: a function of the step alone, so that a resumed run needs no position."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.ppo.noise import counter_key
from rlhf_schemas import PromptRecord


@dataclass(frozen=True)
class Prompt:
    """One prompt as tokens.

    Attributes:
        prompt_id: its row in the split.
        token_ids: what the policy reads.
        text: what the record says, for people.
        record: the record itself, for reward sources that read text.
    """

    prompt_id: int
    token_ids: list[int]
    text: str
    record: PromptRecord | None = None


class PromptStream:
    """Endless passes over the prompts, each pass in an order of its own (a permutation by seed and pass).

    Args:
        prompts: those of the split.
        seed: of the orders.
        num_per_step: responses a step, a multiple of samples_per_prompt.
        samples_per_prompt: responses to each prompt that a step takes.
    """

    def __init__(
        self, prompts: Sequence[Prompt], *, seed: int, num_per_step: int, samples_per_prompt: int = 1
    ) -> None:
        assert num_per_step % samples_per_prompt == 0, "the recipe's rules see to it"
        self.prompts = prompts
        self.seed = seed
        self.num_prompts = num_per_step // samples_per_prompt
        self.samples_per_prompt = samples_per_prompt

    def step(self, step: int) -> list[tuple[Prompt, int]]:
        """The step's prompts, once for each response, each with its sample index (how often the step has had it before)."""
        taken: dict[int, int] = {}
        batch: list[tuple[Prompt, int]] = []
        orders: dict[int, np.ndarray] = {}
        for place in range(step * self.num_prompts, (step + 1) * self.num_prompts):
            epoch, offset = divmod(place, len(self.prompts))
            if epoch not in orders:
                orders[epoch] = permutation(len(self.prompts), self.seed, epoch)
            prompt = self.prompts[int(orders[epoch][offset])]
            first = taken.get(prompt.prompt_id, 0)
            taken[prompt.prompt_id] = first + self.samples_per_prompt
            batch += [(prompt, first + sample) for sample in range(self.samples_per_prompt)]
        return batch


def permutation(size: int, *key: int) -> np.ndarray:
    """A permutation of range(size) that depends on the key alone."""
    return np.random.Generator(np.random.Philox(key=counter_key(*key, size))).permutation(size)
