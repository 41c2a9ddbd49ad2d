"""`rlhf validate` on data sets of the hub, and on names that may be one."""

import sys
from pathlib import Path

import datasets
import pytest

from rlhf.cli import main


def validate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rlhf", "validate", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_a_hub_data_set_is_named_by_config_split_and_revision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list([{"prompt": "What is it?"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    where = ("owner/name", "--split", "train", "--config", "main", "--revision", "abc")
    assert validate(monkeypatch, *where, "--as", "prompt") == 0
    assert set(asked) == {("owner/name", "main", "train", "abc")}
    assert "owner/name[train]: 1 prompt rows, no faults" in capsys.readouterr().out


def test_a_name_that_is_no_file_and_has_no_split_says_what_it_was_taken_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert validate(monkeypatch, "data/pairs", "--as", "preference") == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "data/pairs: 0 preference rows" in out
    assert "split: is no file here; taken for a hub data set, it is without a split" in out
    assert "Name the split (`split`, --split), such as train; or correct the path." in out
