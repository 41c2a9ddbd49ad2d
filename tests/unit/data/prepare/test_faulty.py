"""Rows that break a rule: they stop the run, or are left out and written down with their reasons."""

import json
from pathlib import Path
from typing import Any

import pytest
from prepared_rows import Prepare

from rlhf.errors import DataError

GOOD = {"prompt": "A?", "completion": "b"}
BLANK = {"prompt": "A?", "completion": " ", "metadata": {"id": "東"}}


def test_faulty_rows_stop_the_run_and_the_first_twenty_are_listed(prepare: Prepare) -> None:
    rows = [GOOD, *[BLANK] * 25, GOOD]
    with pytest.raises(DataError) as caught:
        list(prepare(rows))
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("rows.jsonl: 25 faults (blank 25)")
    assert [line.split("rows.jsonl:")[1].split(":")[0] for line in lines[1:21]] == [
        str(n) for n in range(2, 22)
    ]
    assert lines[21] == "  … and 5 more"
    assert "rlhf validate" in lines[22]


def test_no_record_follows_a_faulty_row(prepare: Prepare) -> None:
    rows = iter(prepare([GOOD, BLANK, GOOD]))
    assert next(rows).place.row == 1
    with pytest.raises(DataError):
        next(rows)


def test_quarantined_rows_are_left_out_and_written_with_their_reasons(
    prepare: Prepare, tmp_path: Path
) -> None:
    split = prepare(
        [GOOD, BLANK, GOOD, {"prompt": 3, "completion": "x", "weight": -1}],
        quarantine=True,
        on_error="quarantine",
        max_faulty_share=0.5,
    )
    assert [item.place.row for item in split] == [1, 3]
    assert split.counts == {"rows": 4, "faulty": 2, "given": 2}
    assert split.describe() == "4 rows read; 2 faulty (quarantine.jsonl); 2 given"
    file = tmp_path / "stage" / "quarantine.jsonl"
    first, second = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert (first["line"], first["row"], first["values"]) == (2, 2, BLANK)
    assert first["path"].endswith("rows.jsonl")
    assert [(one["code"], one["field"]) for one in first["faults"]] == [("blank", "completion")]
    assert {one["code"] for one in second["faults"]} == {"wrong_type", "out_of_range"}
    assert second["faults"][0]["remedy"]
    assert [path.name for path in file.parent.iterdir()] == ["quarantine.jsonl"]


def test_rows_that_cannot_be_read_are_quarantined_without_values(prepare: Prepare, tmp_path: Path) -> None:
    split = prepare([GOOD] * 3, quarantine=True, on_error="quarantine", max_faulty_share=0.3)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"prompt": \n')
    assert len(list(split)) == 3
    (line,) = (tmp_path / "stage" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["values"] is None
    assert json.loads(line)["line"] == 4


def test_more_faulty_rows_than_allowed_stop_the_run_after_they_are_written(
    prepare: Prepare, tmp_path: Path
) -> None:
    split = prepare([GOOD, GOOD, GOOD, BLANK], quarantine=True, on_error="quarantine", max_faulty_share=0.2)
    with pytest.raises(DataError) as caught:
        list(split)
    file = tmp_path / "stage" / "quarantine.jsonl"
    assert "25.00% of the rows are faulty (1 of 4), more than max_faulty_share = 20.00%" in str(caught.value)
    assert str(file) in str(caught.value)
    assert len(file.read_text().splitlines()) == 1


def test_just_as_many_as_allowed_do_not(prepare: Prepare) -> None:
    assert len(list(prepare([GOOD] * 3 + [BLANK], on_error="quarantine", max_faulty_share=0.25))) == 3


def test_a_fault_of_the_whole_file_stops_the_run_in_any_case(prepare: Prepare, tmp_path: Path) -> None:
    split = prepare([GOOD], on_error="quarantine", max_faulty_share=0.9)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"file_missing 1"):
        list(split)


def test_without_faulty_rows_an_older_quarantine_goes(prepare: Prepare, tmp_path: Path) -> None:
    settings = {"quarantine": True, "on_error": "quarantine", "max_faulty_share": 0.6}
    file = tmp_path / "stage" / "quarantine.jsonl"
    list(prepare([GOOD, BLANK], **settings))
    assert file.exists()
    list(prepare([GOOD, GOOD], **settings))
    assert not file.exists()


def test_a_reading_that_is_given_up_leaves_the_older_quarantine(prepare: Prepare, tmp_path: Path) -> None:
    settings = {"quarantine": True, "on_error": "quarantine", "max_faulty_share": 0.9}
    list(prepare([GOOD, BLANK], **settings))
    rows = iter(prepare([BLANK, BLANK, GOOD, GOOD], **settings))
    next(rows)
    rows.close()
    (file,) = (tmp_path / "stage").iterdir()
    assert len(file.read_text().splitlines()) == 1


def test_what_the_recipe_calls_an_error_is_quarantined(prepare: Prepare) -> None:
    rows = [GOOD, {"prompt": "A?", "completion": "see <b>this</b>"}]
    settings: dict[str, Any] = {"on_error": "quarantine", "max_faulty_share": 0.5}
    assert len(list(prepare(rows, **settings))) == 2
    raised = prepare(rows, checks={"severity": {"html": "error"}}, **settings)
    assert [item.place.row for item in raised] == [1]


def test_every_pass_of_a_choice_counts_faulty_rows_once(prepare: Prepare, tmp_path: Path) -> None:
    split = prepare(
        [GOOD, BLANK, GOOD],
        quarantine=True,
        on_error="quarantine",
        max_faulty_share=0.5,
        prepare={"deduplicate": "exact", "drop": ["duplicate"]},
    )
    assert len(list(split)) == 1
    assert split.counts["faulty"] == 1
    assert len((tmp_path / "stage" / "quarantine.jsonl").read_text().splitlines()) == 1


REPEATED = [{"prompt": f"{name}?", "completion": "b"} for name in "ABCADA"]


def test_rows_that_are_errors_beside_others_are_quarantined_with_their_reasons(
    prepare: Prepare, tmp_path: Path
) -> None:
    split = prepare(
        REPEATED,
        quarantine=True,
        on_error="quarantine",
        max_faulty_share=0.5,
        checks={"severity": {"duplicate": "error"}},
        prepare={"sample": 10},
    )
    assert [item.place.row for item in split] == [1, 2, 3, 5]
    assert (split.counts["rows"], split.counts["faulty"]) == (6, 2)
    file = tmp_path / "stage" / "quarantine.jsonl"
    written = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(one["row"], [fault["code"] for fault in one["faults"]]) for one in written] == [
        (4, ["duplicate"]),
        (6, ["duplicate"]),
    ]


def test_rows_that_are_errors_beside_others_stop_the_run_unless_a_step_leaves_them_out(
    prepare: Prepare,
) -> None:
    checks = {"severity": {"duplicate": "error"}}
    with pytest.raises(DataError, match=r"2 faults \(duplicate 2\)"):
        list(prepare(REPEATED, checks=checks))
    split = prepare(REPEATED, checks=checks, prepare={"deduplicate": "exact"})
    assert [item.place.row for item in split] == [1, 2, 3, 5]


def test_rows_that_make_pairs_together_are_all_counted(prepare: Prepare) -> None:
    # in the order of their prompts the pairs lie at rows 5, 2 and 4; row 6 makes none
    rows = [
        {"prompt": prompt, "response": f"answer {score}", "score": score}
        for prompt, score in [("A", 0.1), ("B", 0.9), ("C", 0.2), ("C", 0.7), ("A", 0.8), ("B", 0.3)]
    ]
    split = prepare(rows, "preference")
    assert [item.place.row for item in split] == [5, 2, 4]
    assert (split.counts["rows"], split.counts["records"]) == (6, 3)


def test_a_row_that_makes_several_faulty_pairs_counts_once(prepare: Prepare) -> None:
    rated = {"prompt": "Which?", "responses": ["first", "second", " "], "scores": [3, 2, 1]}
    good = {"prompt": "Where?", "responses": ["first", "second"], "scores": [3, 2]}
    split = prepare([rated, good], "preference", pairs="all", on_error="quarantine", max_faulty_share=0.5)
    assert [item.place.row for item in split] == [1, 2]
    assert split.counts["faulty"] == 1
