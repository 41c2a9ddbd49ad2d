"""Which rows go through the model together: rows of like length, so many that they fit the device's memory."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.errors import TrainingError
from rlhf.models.transfer import OnItsWay
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.exchange import least_of_all
from rlhf.recipe.ppo import PPOSection

_UNBOUNDED = 2**62


class MicroBatches:
    """Cuts rows into micro-batches, and cuts finer from then on where memory has run out.

    A micro-batch counts its padding: rows x tokens of its longest row. Longest rows come first: what does not fit is
    known early. There are as few micro-batches as it takes, with as little padding as so few allow.

    Args:
        section: the recipe's `ppo`.

    Attributes:
        max_tokens: most tokens of a micro-batch, as set or as found; None: no bound but the number of rows.
    """

    def __init__(self, section: PPOSection) -> None:
        self._max_rows = section.per_device_batch_size if section.per_device_tokens is None else _UNBOUNDED
        tokens = section.per_device_tokens
        self.max_tokens: int | None = tokens if isinstance(tokens, int) else None

    def split(
        self, rows: Sequence[int], lengths: Sequence[tuple[int, int]], *, max_rows: int | None = None
    ) -> list[list[int]]:
        """Cut rows into micro-batches; a row that is too long by itself is one.

        Args:
            rows: which.
            lengths: of every row, prompt and response tokens; at least those of `rows`.
            max_rows: in one micro-batch; the section's where None.
        """
        order = sorted(rows, key=lambda each: (-sum(lengths[each]), each))
        ends = _ends([sum(lengths[row]) for row in order], max_rows or self._max_rows, self.max_tokens)
        return [order[start:end] for start, end in pairwise([0, *ends])]

    def shrink(self, failed_tokens: int | None, accelerator: Accelerator) -> bool:
        """Agree with all processes whether memory ran out anywhere, and then cut finer in all of them.

        Args:
            failed_tokens: of the micro-batch that did not fit here; None: all did.
            accelerator: Accelerate's handle on the processes; all call this together.

        Returns:
            Whether it ran out, so that the rows have to be cut and passed anew.
        """
        proposal = _UNBOUNDED if failed_tokens is None else failed_tokens // 2
        if accelerator.num_processes > 1:
            proposal = least_of_all(proposal)
        if proposal == _UNBOUNDED:
            return False
        self.max_tokens = proposal
        accelerator.print(
            f"out of memory: micro-batches of at most {proposal} tokens from now on", flush=True
        )
        return True

    def state_dict(self) -> dict[str, Any]:
        """What was found; a resumed run cuts as the uninterrupted one."""
        return {"max_tokens": self.max_tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.max_tokens = state["max_tokens"]


def pass_without_gradient(
    parts: Sequence[list[int]],
    lengths: Sequence[tuple[int, int]],
    work: Callable[[list[int]], tuple[Tensor, ...]],
) -> dict[int, tuple[Tensor, ...]]:
    """What `work` gives for each row of the micro-batches, on the CPU; one that memory does not hold is cut in halves.

    All are passed before the first is looked at, so that the device has the next one when it is done with one.

    Args:
        parts: micro-batches.
        lengths: see `MicroBatches.split`.
        work: a pass that no other process waits for: rows -> tensors whose first dimension they are.

    Raises:
        TrainingError: a single row does not fit.
    """
    passed: list[tuple[list[int], list[OnItsWay]]] = []
    waiting = [*parts]
    while waiting:
        rows = waiting.pop()
        found: list[OnItsWay] | None = None
        try:
            found = [OnItsWay(tensor) for tensor in work(rows)]
        except torch.OutOfMemoryError:
            require_divisible(rows, lengths)
        if found is None:  # behind the handler, which still holds what did not fit
            torch.cuda.empty_cache()
            waiting += [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
        else:
            passed.append((rows, found))
    results: dict[int, tuple[Tensor, ...]] = {}
    for rows, found in passed:
        tensors = [each.arrived() for each in found]
        results |= {row: tuple(each[place] for each in tensors) for place, row in enumerate(rows)}
    return results


def _ends(tokens: Sequence[int], max_rows: int, max_tokens: int | None) -> list[int]:
    """Where each micro-batch of rows, longest first, ends: the fewest that hold them, and of these the least padding.

    Args:
        tokens: of each row, descending.
        max_rows: in one micro-batch.
        max_tokens: padding included, which a single row may exceed; None: no bound.
    """
    count, bound = len(tokens), max_tokens or _UNBOUNDED
    # Of the rows from each on: micro-batches that they need, their least padded tokens, where the first of these ends.
    needed, padded, ends = [0] * (count + 1), [0] * (count + 1), [count] * (count + 1)
    for start in reversed(range(count)):
        last = start + max(1, min(max_rows, bound // max(1, tokens[start]), count - start))
        # The fewer rows follow, the fewer micro-batches they need: the fewest after the last end, and some before it.
        first = last
        while first - 1 > start and needed[first - 1] == needed[last]:
            first -= 1
        needed[start] = needed[last] + 1
        padded[start], ends[start] = min(
            (padded[end] + (end - start) * tokens[start], end) for end in range(first, last + 1)
        )
    cut = [ends[0]] if count else []
    while cut and cut[-1] < count:
        cut.append(ends[cut[-1]])
    return cut


def padded_tokens(rows: Sequence[int], lengths: Sequence[tuple[int, int]]) -> int:
    """Tokens of rows side by side, each prompt with its response, padding included."""
    return len(rows) * max(sum(lengths[row]) for row in rows)


def lengths_of(rollout: Rollout) -> list[tuple[int, int]]:
    """Tokens of each row's prompt and response."""
    counts = (mask.sum(dim=1).tolist() for mask in (rollout.prompt_mask, rollout.response_mask))
    return list(zip(*counts, strict=True))


def require_divisible(rows: Sequence[int], lengths: Sequence[tuple[int, int]]) -> None:
    """Raise TrainingError where a micro-batch that did not fit is a single row."""
    if len(rows) == 1:
        raise TrainingError(
            f"the device's memory does not hold one response and its prompt ({sum(lengths[rows[0]])} tokens)",
            "Set ppo.gradient_checkpointing: true, a shorter max_new_tokens or max_prompt_length, adapters (model.lora, "
            "ppo.backbone: shared), or share the model out (launch.strategy).",
        )
