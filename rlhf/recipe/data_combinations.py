"""Impossible combinations under `data`; see `combinations`."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from rlhf.recipe.check_codes import DROPPABLE, GRADED
from rlhf.recipe.tree import Fault, Tree, at

_GROUPS = ("sft", "preference", "prompts")
Path = tuple[str | int, ...]


def has_eval(tree: Tree, group: str) -> bool:
    """Whether the group has a held-out split, of its own or taken out of `train`."""
    return any(at(tree, "data", group, name) is not None for name in ("eval", "holdout"))


def find_data(tree: Tree) -> Iterator[Fault]:
    """Each impossible combination as (path in the file, message)."""
    yield from _severities(tree)
    for group in _GROUPS:
        where = ("data", group)
        if all(at(tree, *where, name) is not None for name in ("eval", "holdout")):
            yield (
                (*where, "holdout"),
                "takes the held-out split out of train, but eval is given: keep one of both",
            )
        for split in ("train", "eval"):
            source = at(tree, *where, split)
            if isinstance(source, Mapping):
                yield from _source(tree, group, (*where, split), cast(Tree, source))


def _severities(tree: Tree) -> Iterator[Fault]:
    severity = at(tree, "data", "checks", "severity")
    for code in _texts(severity):
        if code not in GRADED:
            message = _unknown(code, GRADED, "no check whose severity can be set: broken rows stay errors")
            yield ("data", "checks", "severity", code), message


def _source(tree: Tree, group: str, where: Path, source: Tree) -> Iterator[Fault]:
    yield from _preparation(tree, group, where, source)
    mixes = source.get("mix_in")
    shares = 0.0
    for index, mixed in enumerate(_list(mixes)):
        if not isinstance(mixed, Mapping):
            continue
        inner: Path = (*where, "mix_in", index)
        one = cast(Tree, mixed)
        if one.get("mix_in"):
            yield (*inner, "mix_in"), "a mixed-in source has none mixed into itself: list it beside this one"
        share = one.get("share")
        shares += share if isinstance(share, float | int) else 0.0
        yield from _preparation(tree, group, inner, one)
    if shares >= 1:
        yield (
            (*where, "mix_in"),
            f"the shares add to {shares:g}: less than 1 leaves rows for the source itself",
        )


def _preparation(tree: Tree, group: str, where: Path, source: Tree) -> Iterator[Fault]:
    where = (*where, "prepare")
    for code in _texts(at(source, "prepare", "drop")):
        if code not in DROPPABLE:
            yield (*where, "drop"), _unknown(code, DROPPABLE, "no check that rows can be dropped by")
        elif code == "sensitive_word" and at(tree, "data", "checks", "sensitive_words") is None:
            yield (*where, "drop"), "sensitive_word needs a list of words: add data.checks.sensitive_words"
    if at(source, "prepare", "weights") is None:
        return
    if group == "prompts":
        yield (*where, "weights"), "prompts have no weights: PPO's loss counts every response alike"
    if at(source, "prepare", "weights", "by") == "prompt":
        yield (*where, "weights", "by"), "name groups that have names: source or metadata.ENTRY"


def _unknown(code: str, known: Sequence[str], what: str) -> str:
    close = difflib.get_close_matches(code, known, n=1)
    return f"{code} is {what}" + (
        f" (did you mean {close[0]}?)" if close else " (docs/data_checks.md lists them)"
    )


def _texts(value: Any) -> list[str]:
    given = list(cast(Mapping[Any, Any], value)) if isinstance(value, Mapping) else _list(value)
    return [one for one in given if isinstance(one, str)]


def _list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []
