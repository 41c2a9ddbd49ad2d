"""Faults and reports as people and machines read them, and the examples in their documentation."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from rlhf.data import check, render_json, render_text
from rlhf.data.fault import make_fault
from rlhf.data.place import Place
from rlhf.data.report import Offender, Report, describe_counts
from rlhf.recipe.data import DataSource

ROOT = Path(__file__).parents[3]


def _report(**changes: object) -> Report:
    """A source of four rows without findings."""
    clean = Report(
        path="x.jsonl",
        kind="sft",
        format="jsonl",
        num_rows=4,
        num_faults=0,
        counts={},
        faults=[],
        sha256=None,
    )
    return replace(clean, **changes)


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


def test_a_files_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "x\n\x1b[31m\u202e.jsonl"
    path.write_text('{"prompt": 5, "completion": ""}\n')
    text = check(DataSource(path=str(path)), "sft").as_text()
    lines = text.split("\n")
    assert len(lines) == 5, "the source, two faults, and the row with the most"
    assert all(line.isprintable() for line in lines)
    assert r"x\n\x1b[31m\u202e.jsonl:1: prompt: should be text" in text


def test_reports_as_text_and_json(tmp_path: Path) -> None:
    path = str(tmp_path / "x.jsonl")
    Path(path).write_text('{"prompt": ""}\n' * 12)
    digest = hashlib.sha256(b'{"prompt": ""}\n' * 12).hexdigest()
    report = check(DataSource(path=path), "prompt", max_faults=1)
    line = "prompt: is blank (value ''). Give text, or remove the row."
    assert render_text([report]).split("\n") == [
        f"{path}: 12 prompt rows, 12 faults (blank 12), sha256 {digest[:12]}",
        *(f"  {path}:{number}: {line}" for number in range(1, 11)),
        "  … and 2 more, counted above",
    ]
    dumped = json.loads(json.dumps(render_json([report, report])))
    assert (dumped["num_rows"], dumped["num_faults"], dumped["num_warnings"]) == (24, 24, 0)
    assert dumped["reports"][0]["sha256"] == digest
    assert dumped["reports"][0]["num_faulty_rows"] == 12
    assert dumped["reports"][0]["faults"][0] == {
        "code": "blank",
        "path": path,
        "line": 1,
        "row": 1,
        "field": "prompt",
        "value": "''",
        "message": "is blank",
        "remedy": "Give text, or remove the row.",
        "severity": "error",
    }


def test_a_report_without_findings_is_one_line() -> None:
    assert (
        _report(sha256="0123456789abcdef").as_text() == "x.jsonl: 4 sft rows, no faults, sha256 0123456789ab"
    )


def test_of_each_warning_the_first_three_are_shown_after_all_errors() -> None:
    warnings = [make_fault("email", Place("x.jsonl", line, line), "has one") for line in (1, 2, 3, 4)]
    error = make_fault("blank", Place("x.jsonl", 4, 4), "is blank")
    report = _report(num_faults=1, num_warnings=9, counts={"email": 9, "blank": 1}, faults=[*warnings, error])
    assert report.as_text().split("\n") == [
        "x.jsonl: 4 sft rows, 1 fault (blank 1), 9 warnings (email 9)",
        "  x.jsonl:4: is blank. Give text, or remove the row.",
        *(
            f"  warning: x.jsonl:{line}: has one. Remove or mask it, unless it is public."
            for line in (1, 2, 3)
        ),
        "    … and 6 more of email",
    ]


def test_rows_with_several_findings_are_listed_as_the_worst() -> None:
    worst = [
        Offender("x.jsonl", 3, 3, ["email", "html"]),
        Offender("x.parquet", None, 7, ["html", "html"]),
        Offender("x.jsonl", 1, 1, ["email"]),
    ]
    assert _report(worst=worst).as_text().split("\n")[1:] == [
        "  rows with the most findings:",
        "    x.jsonl:3: email, html",
        "    x.parquet row 7: html, html",
    ]


def test_counts_follow_the_severity_that_the_settings_give() -> None:
    raised = replace(make_fault("email", Place("x.jsonl", 1, 1), "has one"), severity="error")
    report = _report(num_faults=1, num_warnings=2, counts={"email": 1, "html": 2}, faults=[raised])
    assert report.severity("email") == "error"
    assert report.codes() == ["email", "html"]
    assert report.as_text().startswith("x.jsonl: 4 sft rows, 1 fault (email 1), 2 warnings (html 2)\n")


def test_codes_are_ordered_by_severity_and_then_by_frequency() -> None:
    counts = {"html": 50, "roles": 1, "blank": 3, "email": 60, "mixed": 1}
    assert _report(counts=counts).codes() == ["blank", "mixed", "roles", "email", "html"]


def test_counts_are_told_the_most_frequent_first() -> None:
    counts = {"roles": 1, "blank": 3, "email": 1200}
    assert describe_counts(counts) == "4 faults (blank 3, roles 1), 1,200 warnings (email 1200)"


def test_the_documentations_examples_are_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "records.md").read_text()
    num_checked = 0
    for block in text.split("```json ")[1:]:
        kind, _, body = block.partition("\n")
        path = tmp_path / "x.jsonl"
        path.write_text(body.partition("```")[0])
        assert check(DataSource(path=str(path)), kind).num_faults == 0  # type: ignore[arg-type]  # the fence names the kind
        num_checked += 1
    assert num_checked >= 4
