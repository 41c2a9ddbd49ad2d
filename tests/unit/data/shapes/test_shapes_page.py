"""docs/data_shapes.md cannot lie: its examples are found to be of their shape and make the records that it shows."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from rlhf.data.convert import Candidate, convert_rows, detect_shape
from rlhf.data.place import Place, Row
from rlhf.data.shapes import LAYOUTS
from rlhf.data.shapes.scores import LABELS
from rlhf.data.shapes.turns import ROLES
from rlhf.recipe.data import DataSource, RecordKind, Shape
from rlhf_schemas import RECORDS

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "data_shapes.md").read_text()


class Example(NamedTuple):
    shape: Shape
    kind: RecordKind
    rows: list[dict[str, Any]]
    records: list[dict[str, Any]]


def examples() -> list[Example]:
    found: list[Example] = []
    rows: list[dict[str, Any]] = []
    for info, body in re.findall(r"^```json (.*?)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        lines = [json.loads(line) for line in body.splitlines()]
        shape, *kind = info.split()
        if kind:
            found.append(Example(shape, kind[0], rows, lines))
        else:
            rows = lines
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.shape}-{example.kind}")
def test_each_example_makes_the_records_beside_it(example: Example) -> None:
    source = DataSource(path="x.jsonl")
    rows = [Row(values, Place("x.jsonl", line, line)) for line, values in enumerate(example.rows, start=1)]
    assert detect_shape(source, example.kind, rows[0]) == example.shape
    made = list(convert_rows(rows, source, example.kind, "jsonl", example.shape))
    records = [
        RECORDS[example.kind].model_validate(one.fields).model_dump(exclude_unset=True)
        for one in made
        if isinstance(one, Candidate) and one.fields is not None
    ]
    assert records == example.records


def test_every_shape_and_kind_has_an_example() -> None:
    assert {(example.shape, example.kind) for example in EXAMPLES} == {
        (shape, kind) for shape in LAYOUTS for kind in ("sft", "preference", "prompt")
    }
    assert set(get_args(Shape)) == {*LAYOUTS, "records"}


def test_the_page_lists_every_column_role_and_label() -> None:
    sections = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")}
    for shape, layout in LAYOUTS.items():
        told = sections[shape] + (sections["scored"] if shape == "rated" else "")
        missing = [name for names in layout.columns.values() for name in names if f"`{name}`" not in told]
        assert missing == [], shape
    for role in ("system", "user", "assistant", "tool"):
        label = role if role != "tool" else "refused with `tool_calls`"
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {label} |")]
        names = re.findall(r"`([^`]+)`", line.split("|")[2])
        assert sorted(names) == sorted(name for name, meant in ROLES.items() if meant == role)
    assert [
        label
        for label in LABELS
        if not re.search(rf"(`{label}`|\b{label}\b|{label}[;.,])", sections["scored"])
    ] == []
