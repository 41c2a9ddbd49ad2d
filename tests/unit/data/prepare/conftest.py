"""Splits over small files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prepared_rows import Prepare, Rows

from rlhf.data.prepare import PreparedSplit
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource
from rlhf.recipe.preparation import Holdout
from rlhf.recipe.recipe import ReadSplit


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write rows as JSON Lines; gives the path."""

    def write(rows: Rows, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def prepare(write: Callable[..., str], tmp_path: Path) -> Prepare:
    """A split over rows, with the source's settings by name."""

    def prepare(
        rows: Rows,
        kind: Any = "sft",
        *,
        checks: dict[str, Any] | None = None,
        holdout: dict[str, Any] | None = None,
        part: Any = "all",
        quarantine: bool = False,
        **settings: Any,
    ) -> PreparedSplit:
        source = DataSource.model_validate({"path": write(rows), **settings})
        taken = None if holdout is None else Holdout(**holdout)
        return PreparedSplit(
            ReadSplit("x.train", kind, source, taken, part),
            chat=False,
            checks=ChecksSection(**(checks or {})),
            quarantine=tmp_path / "stage" / "quarantine.jsonl" if quarantine else None,
        )

    return prepare
