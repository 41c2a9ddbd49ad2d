"""Faults of a source as a whole and of two splits together; and that the corpus leaves out no check and no format."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from data_corpus.across_faults import ACROSS
from data_corpus.byte_faults import BYTE_FAULTS
from data_corpus.clean_rows import CLEAN
from data_corpus.content_faults import CONTENT
from data_corpus.planted import ALL, BINARY, CSVS, FORMATS_OF, JSONS, ROWS
from data_corpus.record_faults import RULES
from data_corpus.shape_faults import SHAPES
from data_corpus.writers import FORMATS, TEXT_FORMATS, write

from rlhf.data import CHECKS, Fault, check, check_splits, compression
from rlhf.recipe.data import DataSource, RecordKind
from rlhf.recipe.recipe import ReadSplit

Make = Callable[[Path], DataSource]


def _missing(folder: Path) -> DataSource:
    return DataSource(path=str(folder / "absent.jsonl"))


def _no_match(folder: Path) -> DataSource:
    return DataSource(path=str(folder / "*.jsonl"))


def _empty_folder(folder: Path) -> DataSource:
    return DataSource(path=str(folder))


def _pipe(folder: Path) -> DataSource:
    os.mkfifo(folder / "x.jsonl")
    return DataSource(path=str(folder / "x.jsonl"))


def _no_suffix(folder: Path) -> DataSource:
    (folder / "rows").write_text('{"prompt": "a"}\n')
    return DataSource(path=str(folder / "rows"))


def _two_formats(folder: Path) -> DataSource:
    write(folder, "jsonl", CLEAN["prompt"].rows)
    write(folder, "csv", CLEAN["prompt"].rows)
    return DataSource(path=str(folder))


def _file_with_split(folder: Path) -> DataSource:
    return DataSource(path=str(write(folder, "csv", CLEAN["prompt"].rows)[0]), split="train")


def _hub_without_split(folder: Path) -> DataSource:
    return DataSource(path="nobody/no-such-set", format="hub")


def _column_of_no_field(folder: Path) -> DataSource:
    return DataSource(
        path=str(write(folder, "parquet", CLEAN["prompt"].rows)[0]), columns={"promt": "prompt"}
    )


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (_missing, "file_missing"),
        (_no_match, "file_missing"),
        (_empty_folder, "file_missing"),
        (_pipe, "not_a_file"),
        (_no_suffix, "unknown_format"),
        (_two_formats, "mixed_formats"),
        (_file_with_split, "bad_source"),
        (_hub_without_split, "bad_source"),
        (_column_of_no_field, "bad_source"),
    ],
)
def test_a_faulty_source_is_one_fault(make: Make, code: str, tmp_path: Path) -> None:
    source = make(tmp_path)
    report = check(source, "prompt")
    assert [(fault.code, fault.line, fault.row) for fault in report.faults] == [(code, None, None)]
    assert report.faults[0].path == source.path


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_file_that_the_system_refuses_is_one_fault(
    fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = write(tmp_path, fmt, CLEAN["prompt-lines" if fmt == "text" else "prompt"].rows)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(compression, "TellingFile", refuse)
    if fmt in BINARY:
        import pyarrow

        monkeypatch.setattr(pyarrow, "memory_map", refuse)
    report = check(DataSource(path=str(path)), "prompt")
    assert [fault.code for fault in report.faults] == ["unreadable"]
    assert report.sha256 is None


def test_a_hub_data_set_that_does_not_load_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*args: object, **kwargs: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("no such set")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    report = check(DataSource(path="nobody/no-such-set", split="train"), "prompt")
    assert [fault.code for fault in report.faults] == ["hub_unavailable"]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_file_without_rows_is_empty(fmt: str, tmp_path: Path) -> None:
    if fmt in BINARY:
        import pyarrow
        from data_corpus.writers import write_arrow, write_parquet

        table = pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())})
        path = (write_parquet if fmt == "parquet" else write_arrow)(tmp_path, table)
    else:
        name = {"text": "x.txt"}.get(fmt, f"x.{fmt}")
        path = tmp_path / name
        path.write_text({"json": "[]", "csv": "prompt\n", "tsv": "prompt\n"}.get(fmt, "\n"))
    report = check(DataSource(path=str(path)), "prompt")
    assert [(fault.code, fault.line, fault.row) for fault in report.faults] == [("empty", None, None)]


def test_lines_of_text_are_no_pairs(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "text", CLEAN["sft-lines"].rows)
    report = check(DataSource(path=str(path)), "preference")
    assert [(fault.code, fault.line, fault.row) for fault in report.faults] == [("unknown_shape", 1, 1)]


def _leaks(
    train: tuple[RecordKind, str, list[dict[str, object]]],
    held: tuple[RecordKind, str, list[dict[str, object]]],
    folder: Path,
    fmt: str,
) -> list[Fault]:
    reads = []
    for part, (kind, group, rows) in (("train", train), ("eval", held)):
        at = folder / f"{group}-{part}"
        at.mkdir()
        reads.append(
            ReadSplit(key=f"{group}.{part}", kind=kind, source=DataSource(path=str(write(at, fmt, rows)[0])))
        )
    return [fault for survey in check_splits(reads).values() for fault in survey.found.kept]


@pytest.mark.parametrize("fmt", ROWS)
def test_leaks_between_splits_and_stages_are_found_at_their_rows(fmt: str, tmp_path: Path) -> None:
    rows = [dict(row) for row in CLEAN["preference"].rows]
    held = rows[20:]
    cases: list[tuple[str, RecordKind, str, list[dict[str, object]], list[dict[str, object]], str]] = [
        ("clean", "preference", "preference", rows[:20], held, ""),
        ("whole", "preference", "preference", rows[:20], [*held[:3], rows[4], *held[4:]], "eval_leak"),
        (
            "prompt",
            "preference",
            "preference",
            rows[:20],
            [*held[:3], {**held[3], "prompt": rows[4]["prompt"]}, *held[4:]],
            "prompt_leak",
        ),
        (
            "stage",
            "sft",
            "sft",
            [dict(row) for row in CLEAN["sft"].rows[:20]],
            [*held[:3], rows[4], *held[4:]],
            "stage_leak",
        ),
    ]
    for name, kind, group, train, held_out, code in cases:
        folder = tmp_path / name
        folder.mkdir()
        faults = _leaks((kind, group, train), ("preference", "preference", held_out), folder, fmt)
        at = _position(folder, fmt, held_out)
        assert [(fault.code, fault.line, fault.row) for fault in faults] == ([(code, *at)] if code else []), (
            name
        )


def _position(folder: Path, fmt: str, rows: list[dict[str, object]]) -> tuple[int | None, int | None]:
    at = folder / "again"
    at.mkdir()
    return write(at, fmt, rows)[1][3]


def test_the_corpus_has_every_check_in_every_format_in_which_it_can_occur() -> None:
    planted: dict[str, set[str]] = {}
    for one in (*RULES, *SHAPES, *CONTENT, *ACROSS, *BYTE_FAULTS):
        planted.setdefault(one.code, set()).update(one.formats)
    assert planted == {code: set(formats) for code, formats in FORMATS_OF.items()}


def test_every_check_is_planted_somewhere() -> None:
    elsewhere = {  # in the tests above and beside this one
        *("file_missing", "not_a_file", "unreadable", "unknown_format", "mixed_formats", "bad_source"),
        *("other_content", "hub_unavailable", "empty", "bad_parquet", "bad_arrow", "bad_compression"),
        *("eval_leak", "prompt_leak", "stage_leak"),
    }
    tokens = {code for code, one in CHECKS.items() if one.group == "tokens"}  # these need a tokenizer
    assert set(FORMATS_OF) | elsewhere | tokens == set(CHECKS)
    assert not set(FORMATS_OF) & elsewhere


def test_the_corpus_has_at_least_seventy_faults() -> None:
    assert len([*RULES, *SHAPES, *CONTENT, *ACROSS, *BYTE_FAULTS]) >= 70
    assert {*JSONS, *CSVS, *BINARY, "text"} == {*FORMATS} == {*ALL}
    assert set(TEXT_FORMATS) == {*JSONS, *CSVS, "text"}
