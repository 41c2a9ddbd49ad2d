"""Which inputs' work lies in a stage's folder: one at a time, and the others' wait beside it until they come back."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from rlhf.durable import rename_folder, write_atomic
from rlhf.recipe import Stage
from rlhf.stages.inputs import DONE_FILE, INPUTS_FILE, StageInputs

FRESH_FILE = "fresh"
"""Marks work that `--fresh` began although an artefact was there: until it is published, it goes on, whatever is there."""

ADOPTED_FILE = "adopted.json"
"""The steps from which `--adopt-changes` let the work go on with other inputs, and which."""


def read_inputs(stage_folder: Path) -> StageInputs | None:
    """The inputs that a stage last ran with, None where it never did (or an older version wrote them)."""
    path = stage_folder / INPUTS_FILE
    if not path.is_file():
        return None
    try:
        return StageInputs.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError:
        return None


def find_work(run_folder: Path, stage: Stage, digest: str) -> Path | None:
    """Where the work from these inputs lies: in the stage's folder, or set aside; None where there is none."""
    folder = run_folder / stage
    for candidate in (folder, aside(folder, digest)):
        before = read_inputs(candidate)
        if before is not None and before.digest == digest:
            return candidate
    return None


def adopt(folder: Path, inputs: StageInputs, step: int, changes: Sequence[str]) -> None:
    """Let a stage's unfinished work go on with other inputs, and keep a note of it beside them.

    Args:
        folder: `<run>/<stage>`.
        inputs: what it goes on with.
        step: from where.
        changes: what differs from before, in words.
    """
    path = folder / ADOPTED_FILE
    notes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    notes.append({"from_step": step, "changes": list(changes)})
    write_atomic(path, json.dumps(notes, ensure_ascii=False, indent=1).encode())
    write_atomic(folder / INPUTS_FILE, inputs.model_dump_json(indent=1).encode())


def begun_afresh(work: Path | None) -> bool:
    """Whether `--fresh` began this work and it has not been published yet."""
    return work is not None and (work / FRESH_FILE).is_file() and not (work / DONE_FILE).is_file()


def aside(folder: Path, digest: str) -> Path:
    """Where a stage's folder waits while other inputs are in its place."""
    return folder.with_name(f"{folder.name}.{digest[:12]}")


def make_room(folder: Path, inputs: StageInputs, *, fresh: bool = False) -> None:
    """Let the stage's folder hold these inputs' work: another's is set aside, an earlier one comes back.

    Args:
        folder: `<run>/<stage>`.
        inputs: what is to run.
        fresh: begin anew, whatever is there; nothing is deleted.
    """
    before = read_inputs(folder)
    ours = before is not None and before.digest == inputs.digest
    if folder.exists() and (fresh or not ours):
        _set_aside(folder, "unknown" if before is None else before.digest)
    returning = aside(folder, inputs.digest)
    if returning.exists() and not fresh and not folder.exists():
        rename_folder(returning, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / INPUTS_FILE, inputs.model_dump_json(indent=1).encode())
    if fresh:
        write_atomic(folder / FRESH_FILE, b"")


def _set_aside(folder: Path, digest: str) -> None:
    """The newest work of these inputs gets the plain name, since that is what comes back."""
    target = aside(folder, digest)
    if target.exists():
        number = 2
        while (older := target.with_name(f"{target.name}~{number}")).exists():
            number += 1
        rename_folder(target, older)
    rename_folder(folder, target)
