"""Every fault of the corpus is found at its row, and nothing else; the clean files have none."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from data_corpus.across_faults import ACROSS
from data_corpus.byte_faults import ARCHIVE_FAULTS, BINARY_FAULTS, BYTE_FAULTS, ByteFault, checksum_broken
from data_corpus.clean_rows import CLEAN
from data_corpus.content_faults import CONTENT, WORDS
from data_corpus.planted import Planted
from data_corpus.record_faults import RULES
from data_corpus.shape_faults import SHAPES
from data_corpus.writers import COMPRESSIONS, TEXT_FORMATS, Position, encode, place, write

from rlhf.data import Located, Report, check, scan
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource, RecordKind
from rlhf_schemas import PreferenceRecord

PLANTED = (*RULES, *SHAPES, *CONTENT, *ACROSS)
Found = tuple[str, int | None, int | None, str | None]
"""(code, line, row, field)."""


def variants(formats: Iterable[str]) -> Iterator[str]:
    """Each format, the text ones also compressed."""
    for fmt in formats:
        yield from (fmt + compression for compression in COMPRESSIONS) if fmt in TEXT_FORMATS else (fmt,)


def checked(
    path: Path,
    kind: RecordKind,
    source: Mapping[str, Any] | None = None,
    checks: Mapping[str, Any] | None = None,
    chat: bool = False,
) -> Report:
    options = dict(checks or {})
    if options.get("sensitive_words") == WORDS:
        words = path.parent / "words.txt"
        words.write_text("blorp\nhush money\n")
        options["sensitive_words"] = str(words)
    return check(
        DataSource(path=str(path), **(source or {})), kind, chat=chat, checks=ChecksSection(**options)
    )


def found(report: Report) -> list[Found]:
    assert report.counts == Counter(fault.code for fault in report.faults)
    return sorted(
        ((fault.code, fault.line, fault.row, fault.field) for fault in report.faults),
        key=lambda one: tuple(str(part) for part in one),
    )


def wanted(planted: Planted, fmt: str, positions: tuple[Position, ...]) -> list[Found]:
    if planted.whole == "source":
        return [(planted.code, None, None, planted.field)]
    if planted.whole == "column":
        line = 1 if fmt[:3] in ("csv", "tsv") else None
        return [(planted.code, line, None, planted.field)] * (2 if fmt == "arrow" else 1)  # once a shard
    faults = [(planted.code, planted.field, index) for index in planted.indices]
    return sorted(
        ((code, *positions[index], field) for code, field, index in (*faults, *planted.also)),
        key=lambda one: tuple(str(part) for part in one),
    )


@pytest.mark.parametrize("name", CLEAN)
def test_clean_files_have_no_finding(name: str, tmp_path: Path) -> None:
    clean = CLEAN[name]
    for fmt in variants(clean.formats):
        folder = tmp_path / fmt
        folder.mkdir()
        report = checked(write(folder, fmt, clean.rows)[0], clean.kind)
        assert [str(fault) for fault in report.faults] == [], fmt
        assert (report.num_rows, report.shape) == (len(clean.rows), clean.shape), fmt


@pytest.mark.parametrize("fmt", ["jsonl", "parquet"])
def test_rollouts_of_ours_make_pairs_demonstrations_and_prompts(fmt: str, tmp_path: Path) -> None:
    first, second = CLEAN["rollout"].rows[:2]
    rows = [{**first, "score": 1.5}, {**second, "score": 0.5}, {**first, "response": "No.", "score": 1.0}]
    path, _ = write(tmp_path, fmt, rows)
    kinds: tuple[RecordKind, ...] = ("preference", "sft", "prompt", "rollout")
    reports = {kind: checked(path, kind) for kind in kinds}
    assert {kind: (report.shape, report.num_records) for kind, report in reports.items()} == {
        "preference": ("scored", 1),
        "sft": ("scored", 3),
        "prompt": ("scored", 3),
        "rollout": ("records", 3),
    }
    assert dict(reports["preference"].counts) == {"single_answer": 1}
    (pair,) = [
        item.record for item in scan(DataSource(path=str(path)), "preference") if isinstance(item, Located)
    ]
    assert isinstance(pair, PreferenceRecord)
    assert (pair.chosen, pair.rejected, pair.margin) == (first["response"], "No.", 0.5)


def _name(planted: Planted, index: int) -> str:
    return f"{planted.code}-{planted.base}-{planted.field}-{index}"


@pytest.mark.parametrize("planted", [pytest.param(one, id=_name(one, i)) for i, one in enumerate(PLANTED)])
def test_a_planted_fault_is_found_at_its_row_and_nothing_else(planted: Planted, tmp_path: Path) -> None:
    differing: dict[str, object] = {}
    for fmt in variants(planted.formats):
        (tmp_path / fmt).mkdir()
        path, positions = write(tmp_path / fmt, fmt, planted.rows())
        report = checked(path, CLEAN[planted.base].kind, planted.source, planted.checks, planted.chat)
        if found(report) != (expected := wanted(planted, fmt, positions)):
            differing[fmt] = (expected, [str(fault) for fault in report.faults])
    assert differing == {}


def test_options_that_planted_faults_need_leave_the_clean_files_clean(tmp_path: Path) -> None:
    needing = [planted for planted in PLANTED if planted.source or planted.checks]
    for index, planted in enumerate(needing):
        folder = tmp_path / str(index)
        folder.mkdir()
        path, _ = write(folder, "jsonl", CLEAN[planted.base].rows)
        assert found(checked(path, CLEAN[planted.base].kind, planted.source, planted.checks)) == []


def test_a_fault_in_one_of_many_files_names_that_file(tmp_path: Path) -> None:
    for number, fmt in enumerate(("jsonl.gz", "csv", "parquet", "text.zst")):
        folder = tmp_path / fmt
        clean, broken = CLEAN["sft-lines"].rows[7 * number : 7 * number + 5], {"text": "one\0two"}
        for part, rows in ((1, clean[:2]), (2, [clean[2], broken]), (10, clean[3:])):
            (folder / str(part)).mkdir(parents=True)
            path, _ = write(folder / str(part), fmt, rows)
            path.rename(folder / f"part-{part}{''.join(path.suffixes)}")
        path = folder / f"part-2{''.join(path.suffixes)}"
        report = checked(folder / f"part-*{''.join(path.suffixes)}", "sft")
        assert [(fault.code, fault.path) for fault in report.faults] == [("nul", str(path))]
        assert report.faults[0].row == 2
        assert report.num_rows == 6


@pytest.mark.parametrize("fault", [pytest.param(one, id=f"{one.code}-{one.name}") for one in BYTE_FAULTS])
def test_a_fault_of_bytes_is_found_at_its_line_and_nothing_else(fault: ByteFault, tmp_path: Path) -> None:
    clean = CLEAN[fault.base]
    for fmt in variants(fault.formats):
        damaged = fault.edit(encode(fmt, clean.rows))
        report = checked(place(tmp_path, fmt, damaged.data), clean.kind)
        assert [(code, line) for code, line, _, _ in found(report)] == [(fault.code, damaged.position[0])], (
            fmt + "\n" + "\n".join(map(str, report.faults))
        )
        row = report.faults[0].row
        assert row == damaged.position[1] or fault.code in ("bad_csv", "column_count") or row is None, fmt


@pytest.mark.parametrize("name", ARCHIVE_FAULTS)
def test_a_damaged_archive_is_one_fault(name: str, tmp_path: Path) -> None:
    rows = CLEAN["sft-lines"].rows
    for fmt in (one for one in variants(TEXT_FORMATS) if "." in one):
        path, _ = write(tmp_path, fmt, rows)
        path.write_bytes(ARCHIVE_FAULTS[name](path.read_bytes()))
        assert [code for code, *_ in found(checked(path, "sft"))] == ["bad_compression"], fmt


def test_rows_before_the_break_of_an_archive_are_still_read(tmp_path: Path) -> None:
    noise = random.Random(0)
    rows = [{"text": f"{index} {noise.randbytes(300).hex()}"} for index in range(2000)]
    for fmt in ("jsonl.gz", "jsonl.zst", "csv.gz", "text.zst"):
        path, _ = write(tmp_path, fmt, rows)
        path.write_bytes(path.read_bytes()[:-200])
        report = checked(path, "sft", checks={"severity": {"near_duplicate": "off"}})
        assert [code for code, *_ in found(report)] == ["bad_compression"], fmt
        assert 1000 < report.num_records < 2000, fmt


def test_an_archive_with_a_wrong_check_sum_is_a_fault(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "jsonl.gz", CLEAN["sft-lines"].rows)
    path.write_bytes(checksum_broken(path.read_bytes()))
    report = checked(path, "sft")
    assert [code for code, *_ in found(report)] == ["bad_compression"]


@pytest.mark.parametrize("name", BINARY_FAULTS)
def test_a_damaged_table_file_is_one_fault_without_a_row(name: str, tmp_path: Path) -> None:
    for fmt, code in (("parquet", "bad_parquet"), ("arrow", "bad_arrow")):
        path, _ = write(tmp_path, fmt, CLEAN["sft-lines"].rows)
        file = path if path.is_file() else path / "data-00001-of-00002.arrow"
        file.write_bytes(BINARY_FAULTS[name](file.read_bytes()))
        (fault,) = checked(path, "sft").faults
        assert (fault.code, fault.path, fault.field) == (code, str(file), None)
