"""Rows for the tests of preparation, and the types of its fixtures."""

from collections.abc import Callable
from typing import Any

Rows = list[dict[str, Any]]
Prepare = Callable[..., Any]


def row(prompt: str, completion: str, **more: Any) -> dict[str, Any]:
    """A demonstration."""
    return {"prompt": prompt, "completion": completion, **more}


def many(count: int, name: str = "Question") -> Rows:
    """Different demonstrations."""
    return [row(f"{name} {index}?", f"Answer {index}.") for index in range(count)]
