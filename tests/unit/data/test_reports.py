"""Faults and reports as people and machines read them, and their documentation."""

import hashlib
import json
from pathlib import Path

from rlhf.data import REMEDIES, check, render_json, render_text
from rlhf.data.fault import make_fault
from rlhf.data.place import Place
from rlhf.recipe.data import DataSource

ROOT = Path(__file__).parents[3]


def test_a_fault_reads_as_one_line() -> None:
    fault = make_fault(
        "equal_pair", Place("x.jsonl", 17, 17), "is equal to rejected", field="chosen", value="'abc'"
    )
    assert str(fault) == (
        "x.jsonl:17: chosen: is equal to rejected (value 'abc'). Remove the row: a pair of equals prefers nothing."
    )


def test_a_fault_stays_one_line_that_utf8_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a", "b\\n\\ud800": 1}\n')
    (fault,) = check(DataSource(path=str(path)), "prompt").faults
    assert fault.field == r"b\n\ud800"
    assert str(fault).encode().count(b"\n") == 0


def test_reports_as_text_and_json(tmp_path: Path) -> None:
    path = str(tmp_path / "x.jsonl")
    Path(path).write_text('{"prompt": ""}\n' * 12)
    digest = hashlib.sha256(b'{"prompt": ""}\n' * 12).hexdigest()
    report = check(DataSource(path=path), "prompt", max_faults=1)
    line = "prompt: is blank (value ''). Give text, or remove the row."
    assert render_text([report]).split("\n") == [
        f"{path}: 12 prompt rows, 12 faults (blank 12), sha256 {digest[:12]}",
        *(f"  {path}:{number}: {line}" for number in range(1, 11)),
        "  … and 2 more",
    ]
    dumped = json.loads(json.dumps(render_json([report, report])))
    assert (dumped["num_rows"], dumped["num_faults"]) == (24, 24)
    assert dumped["reports"][0]["sha256"] == digest
    assert dumped["reports"][0]["faults"][0] == {
        "code": "blank",
        "path": path,
        "line": 1,
        "row": 1,
        "field": "prompt",
        "value": "''",
        "message": "is blank",
        "remedy": "Give text, or remove the row.",
    }


def test_every_fault_code_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "records.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    documented = {cells[1].strip().strip("`") for cells in rows if len(cells) == 4}
    assert documented == set(REMEDIES)


def test_the_documentations_examples_are_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "records.md").read_text()
    num_checked = 0
    for block in text.split("```json ")[1:]:
        kind, _, body = block.partition("\n")
        path = tmp_path / "x.jsonl"
        path.write_text(body.partition("```")[0])
        assert check(DataSource(path=str(path)), kind).faults == []  # type: ignore[arg-type]  # the fence names the kind
        num_checked += 1
    assert num_checked >= 4
