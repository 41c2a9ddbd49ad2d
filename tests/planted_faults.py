"""Faults inside a stage's real processes: a `sitecustomize` that the environment names breaks one rank at one place."""

from collections.abc import Sequence
from pathlib import Path

import pytest

_SITE = """
import os, signal

def arm(module, name, call, how):
    real, calls = getattr(module, name), 0

    def planted(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == call:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "nan":
                return real(*arguments, **named) * float("nan")
            raise ValueError("planted in the middle of a step")
        return real(*arguments, **named)

    setattr(module, name, planted)

if os.environ.get("RLHF_STAGE_FAULT") and os.environ.get("RANK", "none") in {ranks}:
    import torch
    arm({place}, "{name}", {call}, "{how}")
"""


def plant(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    how: str,
    place: str,
    name: str,
    call: int,
    ranks: Sequence[int],
) -> None:
    """Let the ranks' `call`-th call of `place.name` raise ("raise"), kill them ("kill") or give not a number ("nan")."""
    folder.mkdir()
    text = _SITE
    for key, value in {
        "how": how,
        "place": place,
        "name": name,
        "call": call,
        "ranks": [str(rank) for rank in ranks],
    }.items():
        text = text.replace(f"{{{key}}}", str(value))
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("RLHF_STAGE_FAULT", "1")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
