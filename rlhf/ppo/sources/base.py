"""What one source of scores is."""

from typing import Protocol

from rlhf.ppo.scoring import Answer


class Source(Protocol):
    """Scores responses, in their order; a process asks for its own share, which may be empty."""

    def score(self, answers: list[Answer]) -> list[float]:
        """One finite score an answer.

        Raises:
            TrainingError: the source failed, or gave something else.
        """
        ...
