"""The recipe as plain nested values: what the rules over several fields read, however broken some of it is."""

from collections.abc import Mapping
from typing import Any, cast

Tree = Mapping[str, Any]
"""The recipe as plain values, defaults filled in; what is broken stands there as it was written."""
Fault = tuple[tuple[str | int, ...], str]
"""Path in the file, message."""


def at(tree: Tree, *path: str) -> Any:
    """The value at a path, None where it is not there."""
    value: Any = tree
    for key in path:
        value = cast(Tree, value).get(key) if isinstance(value, Mapping) else None
    return value


def whole(tree: Tree, *path: str) -> int | None:
    """The whole number at a path, None where there is none."""
    value = at(tree, *path)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
