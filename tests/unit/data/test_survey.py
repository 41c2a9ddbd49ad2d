"""A source read in blocks by several processes comes to what it comes to read in one go; findings beside other rows."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import rlhf.data.survey as module
from rlhf.data import check, check_splits, cores, report_of
from rlhf.data.blocks import list_blocks
from rlhf.data.separate import separate
from rlhf.data.survey import Job, Survey, survey
from rlhf.errors import UsageError
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource
from rlhf.recipe.recipe import ReadSplit

Write = Callable[[str, list[Any]], str]
DEFAULTS = ChecksSection()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (text: a line as it is) as JSON Lines and gives the path."""

    def write_rows(name: str, rows: list[Any]) -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines))
        return str(path)

    return write_rows


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def mixed_rows() -> list[Any]:
    rows: list[Any] = []
    for number in range(60):
        rows.append(pair(f"Which is number {number}?", f"It is {number * 7}.", "I would rather not say."))
    rows[7] = pair("Which is blank?", "", "This one is not.")
    rows[20] = "{broken"
    rows[21] = ""
    rows[33] = rows[3]
    rows[41] = pair("Which is number 5?", "I would rather not say.", "It is 35.")
    rows[50] = pair("Where?", "Write to jane.doe@gmail.com.", "<b>Nowhere</b> and <b>never</b>.")
    return rows


def summary(found: Survey) -> tuple[Any, ...]:
    report = report_of(found)
    told = [(fault.code, fault.line, fault.row, fault.field, fault.message) for fault in report.faults]
    numbers = (report.num_rows, report.num_records, report.num_faulty_rows, report.num_faults)
    return numbers, report.num_warnings, told, report.lengths, report.facts, report.worst, report.sha256


def test_the_findings_of_a_file_with_every_kind_of_fault(write: Write) -> None:
    report = check(DataSource(path=write("x.jsonl", mixed_rows())), "preference")
    assert [(fault.code, fault.line, fault.severity) for fault in report.faults] == [
        ("blank", 8, "error"),
        ("bad_json", 21, "error"),
        ("html", 51, "warning"),
        ("email", 51, "warning"),
        ("duplicate", 34, "warning"),
        ("contradiction", 6, "warning"),
        ("contradiction", 42, "warning"),
    ]
    assert (report.num_rows, report.num_records, report.num_faulty_rows) == (59, 57, 2)
    assert (report.num_faults, report.num_warnings) == (2, 5)
    assert [(one.line, one.codes) for one in report.worst] == [(51, ["html", "email"])]
    duplicate = next(fault for fault in report.faults if fault.code == "duplicate")
    assert duplicate.message.endswith("x.jsonl:4")


@pytest.mark.parametrize("parallel_bytes", [0, 1 << 30])
@pytest.mark.parametrize("block_bytes", [50, 700, 100_000])
def test_blocks_and_processes_change_nothing(
    write: Write, monkeypatch: pytest.MonkeyPatch, block_bytes: int, parallel_bytes: int
) -> None:
    job = Job(DataSource(path=write("x.jsonl", mixed_rows())), "preference", checks=DEFAULTS)
    expected = summary(survey(job))
    monkeypatch.setattr(cores, "PARALLEL_BYTES", parallel_bytes)
    monkeypatch.setattr(module, "list_blocks", partial(list_blocks, block_bytes=block_bytes))
    assert summary(survey(job)) == expected


def test_lengths_are_counted_by_their_number_of_bits(write: Write) -> None:
    report = check(
        DataSource(path=write("x.jsonl", [{"prompt": "a"}, {"prompt": "abcd"}, {"prompt": "abcdefg"}])),
        "prompt",
    )
    assert report.lengths == {"prompt": [0, 1, 0, 2]}


def test_rules_only_looks_neither_at_contents_nor_across(write: Write) -> None:
    row = pair("a", "jane.doe@gmail.com", "c")
    report = check(DataSource(path=write("x.jsonl", [row, row])), "preference", checks=None)
    assert (report.counts, report.num_records, report.lengths) == ({}, 2, {})


def test_severities_turn_findings_into_errors_or_off(write: Write) -> None:
    checks = ChecksSection(severity={"email": "error", "html": "off", "duplicate": "error"})
    report = check(DataSource(path=write("x.jsonl", mixed_rows())), "preference", checks=checks)
    codes = [(fault.code, fault.line) for fault in report.faults if fault.severity == "error"]
    assert codes == [("blank", 8), ("bad_json", 21), ("email", 51), ("duplicate", 34)]
    assert "html" not in report.counts
    assert report.num_faulty_rows == 4
    assert report.refuses


def test_yaml_reads_a_bare_off_as_false() -> None:
    assert ChecksSection.model_validate({"severity": {"html": False}}).severity == {"html": "off"}


def test_held_out_rows_that_are_trained_on_are_found_across_splits(write: Write) -> None:
    train = write("train.jsonl", [{"prompt": "a b", "completion": "c"}, {"prompt": "d", "completion": "e"}])
    held = write("eval.jsonl", [{"prompt": "d", "completion": "e"}, {"prompt": "A  b", "completion": "x"}])
    prompts = write("prompts.jsonl", [{"prompt": "D"}, {"prompt": "z"}])
    reads = [
        ReadSplit("sft.train", "sft", DataSource(path=train)),
        ReadSplit("sft.eval", "sft", DataSource(path=held)),
        ReadSplit("prompts.eval", "prompt", DataSource(path=prompts)),
    ]
    reports = [report_of(one) for one in check_splits(reads).values()]
    found = [[(fault.code, fault.line) for fault in report.faults] for report in reports]
    assert found == [[], [("eval_leak", 1), ("prompt_leak", 2)], [("stage_leak", 1)]]
    leak = reports[1].faults[0]
    assert leak.message.endswith("train.jsonl:2")


def test_faulty_rows_and_clean_records_are_written_apart(write: Write, tmp_path: Path) -> None:
    checks = ChecksSection(severity={"duplicate": "error"})
    found = survey(Job(DataSource(path=write("x.jsonl", mixed_rows())), "preference", checks=checks))
    separate(found, quarantine=tmp_path / "bad.jsonl", clean=tmp_path / "good.jsonl")
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    good = [json.loads(line) for line in (tmp_path / "good.jsonl").read_text().splitlines()]
    assert [(row["line"], [fault["code"] for fault in row["faults"]]) for row in bad] == [
        (8, ["blank"]),
        (21, ["bad_json"]),
        (34, ["duplicate"]),
    ]
    assert [row["values"] for row in bad] == [mixed_rows()[7], None, mixed_rows()[3]]
    rows = mixed_rows()
    assert good == [row for index, row in enumerate(rows) if index not in (7, 20, 21, 33)]
    again = check(DataSource(path=str(tmp_path / "good.jsonl")), "preference", checks=checks)
    assert again.num_faults == 0


def test_files_that_cannot_be_written_are_named(write: Write, tmp_path: Path) -> None:
    found = survey(Job(DataSource(path=write("x.jsonl", [{"prompt": "a"}])), "prompt"))
    with pytest.raises(UsageError, match="no/such"):
        separate(found, quarantine=tmp_path / "no/such/bad.jsonl", clean=None)


def test_up_to_a_share_faulty_rows_may_be_set_aside(write: Write) -> None:
    path = write("x.jsonl", [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}, {"prompt": ""}])
    told = {
        share: check(DataSource(path=path, on_error="quarantine", max_faulty_share=share), "prompt").refuses
        for share in (0.2, 0.25)
    }
    assert told == {0.2: True, 0.25: False}
    missing = DataSource(path=f"{path}.gone", format="jsonl", on_error="quarantine", max_faulty_share=0.5)
    assert check(missing, "prompt").refuses


def test_progress_ends_at_the_whole(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "list_blocks", partial(list_blocks, block_bytes=500))
    told: list[float] = []
    check(DataSource(path=write("x.jsonl", mixed_rows())), "preference", progress=told.append)
    assert told == sorted(told)
    assert len(told) > 3
    assert told[-1] == 1.0


def test_only_faulty_rows_can_be_set_aside(write: Write, tmp_path: Path) -> None:
    rows = [{"prompt": f"Which is {number}?"} for number in range(99)]
    folder = tmp_path / "shards"
    folder.mkdir()
    write("shards/a.jsonl", [*rows, {"prompt": ""}])
    source = DataSource(path=str(folder), on_error="quarantine", max_faulty_share=0.5)
    assert not check(source, "prompt").refuses
    (folder / "b.jsonl.gz").write_bytes(b"no archive")
    report = check(source, "prompt")
    assert report.counts == {"blank": 1, "bad_compression": 1}
    assert report.refuses


def test_an_error_of_all_rows_together_refuses_the_source_beside_faulty_rows(write: Write) -> None:
    rows = [pair(f"Which is {number}?", "A long answer.", "Short.") for number in range(99)]
    path = write("x.jsonl", [*rows, pair("Which?", "", "Short.")])
    source = DataSource(path=path, on_error="quarantine", max_faulty_share=0.5)
    assert not check(source, "preference").refuses
    assert check(source, "preference", checks=ChecksSection(severity={"length_bias": "error"})).refuses


def test_a_leak_that_is_an_error_refuses_the_held_out_split_and_is_no_row_to_set_aside(write: Write) -> None:
    path = write("x.jsonl", [{"prompt": "A?"}, {"prompt": "B?"}, {"prompt": "C?"}])
    held = DataSource(path=path, on_error="quarantine", max_faulty_share=0.9)
    reads = [
        ReadSplit("prompts.train", "prompt", DataSource(path=path)),
        ReadSplit("prompts.eval", "prompt", held),
    ]
    leak = ChecksSection(severity={"eval_leak": "error"})
    report = report_of(check_splits(reads, checks=leak)["prompts.eval"])
    assert (report.num_faults, report.num_faulty_rows, report.refuses) == (3, 0, True)


def test_what_is_mixed_in_is_checked_too_also_for_leaks(write: Write) -> None:
    own, held = write("own.jsonl", [{"prompt": "A?"}]), write("held.jsonl", [{"prompt": "M?"}])
    other = write("other.jsonl", [{"prompt": "M?"}, {"prompt": ""}])
    train = DataSource.model_validate({"path": own, "mix_in": [{"path": other, "share": 0.5}]})
    reads = [
        ReadSplit("prompts.train", "prompt", train),
        ReadSplit("prompts.eval", "prompt", DataSource(path=held)),
    ]
    surveys = check_splits(reads)
    found = {key: dict(one.found.counts) for key, one in surveys.items()}
    assert found == {
        "prompts.train": {},
        "prompts.train.mix_in.0": {"blank": 1},
        "prompts.eval": {"eval_leak": 1},
    }


def test_leaving_out_equal_rows_hides_no_nearly_equal_ones(write: Write) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    text = " ".join(f"{word}{part}" for part in range(8) for word in words.split())
    path = write("x.jsonl", [{"prompt": text}, {"prompt": text}, {"prompt": f"{text} more"}])
    told: dict[str, dict[str, int]] = {}
    for step in ("exact", "near"):
        source = DataSource.model_validate({"path": path, "prepare": {"deduplicate": step}})
        (found,) = check_splits([ReadSplit("prompts.train", "prompt", source)]).values()
        told[step] = dict(found.found.counts)
    assert told == {"exact": {"near_duplicate": 1}, "near": {}}


def test_a_row_that_makes_several_faulty_records_is_one_faulty_row(write: Write) -> None:
    rated = {"prompt": "Which?", "responses": ["first", "second", " "], "scores": [3, 2, 1]}
    path = write("x.jsonl", [rated, rated | {"prompt": "Where?"}])
    report = check(DataSource(path=path, pairs="all"), "preference")
    # the blank answer spoils two pairs of each row's three
    assert (report.num_faults, report.num_faulty_rows, report.num_records) == (4, 2, 2)


def test_rows_of_which_none_makes_a_record_are_an_error(write: Write) -> None:
    tied = {"prompt": "Which?", "responses": ["first", "second"], "scores": [1, 1]}
    report = check(DataSource(path=write("x.jsonl", [tied])), "preference")
    assert report.counts == {"tie": 1, "empty": 1}
    assert report.refuses
