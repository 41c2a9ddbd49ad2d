"""Held-out rows that are trained on as well."""

from array import array
from collections.abc import Iterator

from rlhf.data.across.across import Across
from rlhf.data.across.finding import Finding
from rlhf.data.across.keys import NO_KEY


def leaks(train: Across, held_out: Across) -> Iterator[Finding]:
    """Held-out rows that are in the training split too, or whose prompt is.

    Args:
        train: what is trained on.
        held_out: what is measured, of the same kind; its checks say what is looked for.

    Yields:
        Findings on held-out records; `other` is the first such record of `train`.
    """
    if train.keys is None or held_out.keys is None:
        return
    rows, prompts = held_out.keys.rows(), held_out.keys.prompts()
    same_row = _first_places(train.keys.rows(), rows) if held_out.is_on("eval_leak") else {}
    same_prompt = _first_places(train.keys.prompts(), prompts) if held_out.is_on("prompt_leak") else {}
    for ordinal, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        if (other := same_row.get(row)) is not None:
            yield Finding("eval_leak", ordinal, "is also trained on: it is equal to the row at", other)
        elif (other := same_prompt.get(prompt)) is not None:
            yield Finding("prompt_leak", ordinal, "has a prompt that is also trained on, at", other)


def stage_leaks(trained: Across, held_out: Across) -> Iterator[Finding]:
    """Held-out rows of one stage whose prompt another stage trains on.

    Args:
        trained: what the other stage trains on.
        held_out: what this stage holds out, of any kind.

    Yields:
        Findings on held-out records; `other` is the first record of `trained` with that prompt.
    """
    if trained.keys is None or held_out.keys is None or not held_out.is_on("stage_leak"):
        return
    prompts = held_out.keys.prompts()
    same_prompt = _first_places(trained.keys.prompts(), prompts)
    for ordinal, prompt in enumerate(prompts):
        if (other := same_prompt.get(prompt)) is not None:
            yield Finding("stage_leak", ordinal, "has a prompt that another stage trains on, at", other)


def _first_places(keys: "array[int]", wanted: "array[int]") -> dict[int, int]:
    """Key -> its first index, for those that are wanted; memory for these alone."""
    left = set(wanted) - {NO_KEY}
    places: dict[int, int] = {}
    for index, key in enumerate(keys):
        if key in left:
            places.setdefault(key, index)
    return places
