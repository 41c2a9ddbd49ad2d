"""Faults of a source as a whole, and hub data sets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.data import Fault, check, compression
from rlhf.data.place import Place, Row
from rlhf.data.source import read_rows
from rlhf.recipe.data import DataSource


def test_hub_rows_are_numbered_and_named_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls: list[tuple[object, ...]] = []

    def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        calls.append((path, name, split, revision))
        return datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": ""}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    report = check(DataSource(path="owner/name", split="train", config="main", revision="abc"), "prompt")
    assert (report.path, report.format, report.num_rows) == ("owner/name[train]", "hub", 2)
    assert [str(fault) for fault in report.faults] == [
        "owner/name[train] row 2: prompt: is blank (value ''). Give text, or remove the row."
    ]
    assert set(calls) == {("owner/name", "main", "train", "abc")}
    # SHA-256 of the two lines {"prompt": "a"} and {"prompt": ""}, by sha256sum
    assert report.sha256 == "afba6d957d242c358dd10182adcce838ffc0136027bb578c9f2c5d6873e63c66"


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), ValueError("Unknown split"), FileNotFoundError("none")]
)
def test_a_hub_data_set_that_does_not_load_is_one_fault(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import datasets

    def load_dataset(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    report = check(DataSource(path="owner/name", split="train"), "prompt")
    assert [(fault.code, fault.message) for fault in report.faults] == [
        ("hub_unavailable", f"does not load: {error}")
    ]
    assert report.sha256 is None


def test_a_hub_data_set_that_breaks_off_gives_the_rows_before(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def rows() -> Iterator[dict[str, str]]:
        yield {"prompt": "a"}
        raise ConnectionError("gone")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows())
    first, fault = read_rows(DataSource(path="owner/name", split="train"))
    assert first == Row({"prompt": "a"}, Place("owner/name[train]", None, 1))
    assert isinstance(fault, Fault)
    assert (fault.code, fault.message) == ("hub_unavailable", "does not load after row 1: gone")


def whole(source: DataSource) -> list[str]:
    return [item.code for item in read_rows(source) if isinstance(item, Fault)]


def test_faults_of_the_source_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, odd = tmp_path / "x.jsonl", tmp_path / "x.dat"
    good.write_text('{"prompt": "a"}\n')
    odd.write_text('{"prompt": "a"}\n')
    assert whole(DataSource(path=str(tmp_path / "none.jsonl"))) == ["file_missing"]
    assert whole(DataSource(path=str(odd))) == ["unknown_format"]
    assert whole(DataSource(path=str(odd), format="jsonl")) == []
    assert whole(DataSource(path=str(good), split="train")) == ["bad_source"]
    assert whole(DataSource(path="owner/name")) == ["bad_source"]
    assert whole(DataSource(path="data/none.jsonl")) == ["file_missing"]
    assert whole(DataSource(path="data/none.jsonl.gz")) == ["file_missing"]

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(compression, "TellingFile", refuse)
    report = check(DataSource(path=str(good)), "sft")
    assert [(fault.code, fault.message) for fault in report.faults] == [
        ("unreadable", "cannot be read: Permission denied")
    ]
    assert report.sha256 is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.jsonl", ""), ("x.jsonl", "\n\n"), ("x.json", ""), ("x.json", "[]"), ("x.csv", "prompt\n")],
)
def test_a_source_without_rows_is_a_fault(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    report = check(DataSource(path=str(path)), "prompt")
    assert [(fault.code, fault.message) for fault in report.faults] == [("empty", "has no rows")]
