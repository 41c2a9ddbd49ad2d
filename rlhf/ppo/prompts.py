"""Which prompts a step answers: a function of the step alone, so that a resumed run needs no position."""

from dataclasses import dataclass

import numpy as np

from rlhf.ppo.noise import counter_key


@dataclass(frozen=True)
class Prompt:
    """One prompt as tokens.

    Attributes:
        prompt_id: its row in the split.
        token_ids: what the policy reads.
        text: what the record says, for people.
    """

    prompt_id: int
    token_ids: list[int]
    text: str


class PromptStream:
    """Endless passes over the prompts, each pass in an order of its own (a permutation by seed and pass)."""

    def __init__(self, prompts: list[Prompt], *, seed: int, num_per_step: int) -> None:
        self.prompts = prompts
        self.seed = seed
        self.num_per_step = num_per_step

    def step(self, step: int) -> list[tuple[Prompt, int]]:
        """The step's prompts, each with its sample index (how often the step has had it before)."""
        taken: dict[int, int] = {}
        batch: list[tuple[Prompt, int]] = []
        orders: dict[int, np.ndarray] = {}
        for place in range(step * self.num_per_step, (step + 1) * self.num_per_step):
            epoch, offset = divmod(place, len(self.prompts))
            if epoch not in orders:
                orders[epoch] = permutation(len(self.prompts), self.seed, epoch)
            prompt = self.prompts[int(orders[epoch][offset])]
            sample_index = taken.get(prompt.prompt_id, 0)
            taken[prompt.prompt_id] = sample_index + 1
            batch.append((prompt, sample_index))
        return batch


def permutation(size: int, *key: int) -> np.ndarray:
    """A permutation of range(size) that depends on the key alone."""
    return np.random.Generator(np.random.Philox(key=counter_key(*key, size))).permutation(size)
