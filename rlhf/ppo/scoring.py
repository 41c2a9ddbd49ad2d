"""What a source of scores is given and what it returns; the sources themselves are in `rlhf.ppo.sources`."""

from dataclasses import dataclass, field
from typing import Protocol

from rlhf.ppo.episodes import FinishReason
from rlhf.ppo.prompts import Prompt


@dataclass(frozen=True)
class Answer:
    """One sampled response to be scored.

    Attributes:
        prompt: what it answers.
        response_ids: as sampled, the stop token included.
        finish_reason: how it ended.
    """

    prompt: Prompt
    response_ids: list[int]
    finish_reason: FinishReason


@dataclass(frozen=True)
class Score:
    """A response's score.

    Attributes:
        value: what PPO optimises, before shaping.
        by_source: each source's own score, as it gave it.
    """

    value: float
    by_source: dict[str, float] = field(default_factory=dict[str, float])


class Scorer(Protocol):
    """Scores responses, in their order; called on every rank with that rank's share, which may be empty."""

    def score(self, answers: list[Answer]) -> list[Score]:
        """One score an answer."""
        ...
