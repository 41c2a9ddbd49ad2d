"""Which inputs' work lies in a stage's folder: one at a time, and the others' wait beside it until they come back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf.checkpoint import Checkpoints
from rlhf.durable import rename_folder, write_atomic
from rlhf.recipe import Stage
from rlhf.stages.inputs import DONE_FILE, INPUTS_FILE, StageInputs

FRESH_FILE = "fresh"
"""Marks work that `--fresh` began although an artefact was there: until it is published, it goes on, whatever is there."""

ADOPTED_FILE = "adopted.json"
"""From which steps `--adopt-changes` let the work go on with other inputs, what changed, and the digest of those before."""


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
    """Where the work from these inputs lies: in the stage's folder, or set aside; None where there is none.

    Work that adopted other inputs and has no checkpoint made with them is still that of the inputs before, too: what
    was adopted may not run, and then the way back must be open.
    """
    folder = run_folder / stage
    for candidate in (folder, aside(folder, digest)):
        before = read_inputs(candidate)
        if before is not None and (before.digest == digest or _returns(candidate, digest) is not None):
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
    before = read_inputs(folder)
    digest = None if before is None else before.digest
    note = {"from_step": step, "changes": list(changes), "digest_before": digest}
    _write_notes(folder, [*_notes(folder), note])
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
    kept = None if fresh else _returns(folder, inputs.digest)
    ours = before is not None and (before.digest == inputs.digest or kept is not None)
    if folder.exists() and (fresh or not ours):
        _set_aside(folder, "unknown" if before is None else before.digest)
    returning = aside(folder, inputs.digest)
    if returning.exists() and not fresh and not folder.exists():
        rename_folder(returning, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / INPUTS_FILE, inputs.model_dump_json(indent=1).encode())
    if kept is not None:
        _write_notes(folder, kept)
    if fresh:
        write_atomic(folder / FRESH_FILE, b"")


def _returns(folder: Path, digest: str) -> list[dict[str, Any]] | None:
    """The notes of what stays adopted when the folder's work goes back to inputs before; None where it cannot."""
    notes = _notes(folder)
    places = [place for place, note in enumerate(notes) if note.get("digest_before") == digest]
    if not places or (folder / DONE_FILE).is_file():
        return None
    newest = Checkpoints(folder / "checkpoints").newest()
    if newest is None:
        return None
    return next((notes[:place] for place in places if newest.step <= notes[place]["from_step"]), None)


def _notes(folder: Path) -> list[dict[str, Any]]:
    path = folder / ADOPTED_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _write_notes(folder: Path, notes: Sequence[dict[str, Any]]) -> None:
    content = json.dumps(notes, ensure_ascii=False, indent=1)
    write_atomic(folder / ADOPTED_FILE, content.encode())


def _set_aside(folder: Path, digest: str) -> None:
    """The newest work of these inputs gets the plain name, since that is what comes back."""
    target = aside(folder, digest)
    if target.exists():
        number = 2
        while (older := target.with_name(f"{target.name}~{number}")).exists():
            number += 1
        rename_folder(target, older)
    rename_folder(folder, target)
