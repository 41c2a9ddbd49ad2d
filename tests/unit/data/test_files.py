"""Folders, patterns, saved data sets and digests: which files a source means, and in which order."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from rlhf.data.fault import Fault
from rlhf.data.place import Row
from rlhf.data.source import check_source, digest_source, find_format, list_files, read_rows
from rlhf.recipe.data import DataSource, MixedSource

ROW = '{"prompt": "a"}\n'


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROW)


def names(folder: Path, pattern: str | None = None) -> list[str]:
    path = folder if pattern is None else folder / pattern
    return [file.relative_to(folder).as_posix() for file in list_files(DataSource(path=str(path)))]


def fault_of(source: DataSource) -> tuple[str, str, str | None] | None:
    fault = check_source(source)
    assert [fault] == [item for item in read_rows(source) if isinstance(item, Fault)] or fault is None
    return None if fault is None else (fault.code, Path(fault.path).name, fault.field)


def test_the_files_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    fill(tmp_path, "part-10.jsonl", "part-2.jsonl", "part-1.jsonl.gz", "a.ndjson", "inner/b.jsonl")
    fill(tmp_path, "README.md", "LICENSE", "dataset_infos.json", ".hidden.csv", "_SUCCESS")
    assert names(tmp_path) == ["a.ndjson", "part-1.jsonl.gz", "part-2.jsonl", "part-10.jsonl"]
    assert find_format(DataSource(path=str(tmp_path))) == "jsonl"


def test_a_pattern_finds_files_and_recursive_ones_those_of_inner_folders(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "b/c.jsonl", "b/d/e.jsonl", "b/x.csv", "README.md")
    assert names(tmp_path, "*.jsonl") == ["a.jsonl"]
    assert names(tmp_path, "**/*.jsonl") == ["a.jsonl", "b/c.jsonl", "b/d/e.jsonl"]
    assert names(tmp_path, "?.jsonl") == ["a.jsonl"]
    assert names(tmp_path, "*") == ["a.jsonl"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    fill(tmp_path, "x[1].jsonl", "x1.jsonl")
    assert names(tmp_path, "x[1].jsonl") == ["x[1].jsonl"]


def test_rows_of_several_files_count_within_each(tmp_path: Path) -> None:
    (tmp_path / "a-1.jsonl").write_text("\n" + ROW * 2)
    (tmp_path / "a-2.jsonl").write_text(ROW)
    items = list(read_rows(DataSource(path=str(tmp_path))))
    assert [(Path(item.place.path).name, *item.place[1:]) for item in items if isinstance(item, Row)] == [
        ("a-1.jsonl", 2, 1),
        ("a-1.jsonl", 3, 2),
        ("a-2.jsonl", 1, 1),
    ]


def test_what_is_wrong_with_folders_and_patterns(tmp_path: Path) -> None:
    fill(
        tmp_path, "mixed/a.jsonl", "mixed/b.csv", "odd/a.jsonl", "odd/b.docx", "none/README.md", "good/a.csv"
    )
    os.mkfifo(tmp_path / "good" / "pipe.csv")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.csv").symlink_to(tmp_path / "gone.csv")
    found = {name: fault_of(DataSource(path=str(tmp_path / name))) for name in os.listdir(tmp_path)}
    assert found == {
        "mixed": ("mixed_formats", "mixed", None),
        "odd": ("unknown_format", "b.docx", None),
        "none": ("file_missing", "none", None),
        "good": ("not_a_file", "pipe.csv", None),
        "loose": ("not_a_file", "a.csv", None),
    }
    assert fault_of(DataSource(path=str(tmp_path / "*" / "*.parquet"))) == ("file_missing", "*.parquet", None)
    assert fault_of(DataSource(path=str(tmp_path / "mixed"), format="jsonl")) is None
    assert fault_of(DataSource(path=str(tmp_path / "mixed" / "*.csv"), config="x")) == (
        "bad_source",
        "*.csv",
        "config",
    )
    assert fault_of(DataSource(path="x" * 300)) == ("unreadable", "x" * 300, None)


def saved(folder: Path, num_rows: int, num_shards: int) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"prompt": f"p{row}"} for row in range(num_rows)])
    rows.save_to_disk(folder, num_shards=num_shards)


def prompts(source: DataSource) -> list[object]:
    return [item.values["prompt"] if isinstance(item, Row) else item.code for item in read_rows(source)]


def test_a_saved_data_set_is_read_in_the_order_of_its_state(tmp_path: Path) -> None:
    saved(tmp_path / "d", 11, 3)
    source = DataSource(path=str(tmp_path / "d"))
    assert find_format(source) == "arrow"
    assert prompts(source) == [f"p{row}" for row in range(11)]
    state = json.loads((tmp_path / "d" / "state.json").read_text())
    state["_data_files"].reverse()
    (tmp_path / "d" / "state.json").write_text(json.dumps(state))
    # 11 rows over three shards: 4, 4 and 3
    assert prompts(source) == [f"p{row}" for row in [8, 9, 10, 4, 5, 6, 7, 0, 1, 2, 3]]
    assert fault_of(DataSource(path=str(tmp_path / "d"), split="train")) == ("bad_source", "d", "split")


def test_a_saved_data_set_that_is_not_whole_is_one_fault(tmp_path: Path) -> None:
    saved(tmp_path / "d", 4, 2)
    (tmp_path / "d" / "data-00001-of-00002.arrow").unlink()
    assert fault_of(DataSource(path=str(tmp_path / "d"))) == ("bad_arrow", "d", None)
    for content in ("{", "[]", "{}", '{"_data_files": [1]}', '{"_data_files": [{"name": "x"}]}'):
        (tmp_path / "d" / "state.json").write_text(content)
        assert fault_of(DataSource(path=str(tmp_path / "d"))) == ("bad_arrow", "d", None)


def test_saved_splits_need_a_split(tmp_path: Path) -> None:
    saved(tmp_path / "d" / "train", 2, 1)
    saved(tmp_path / "d" / "test", 1, 1)
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    path = str(tmp_path / "d")
    assert prompts(DataSource(path=path, split="train")) == ["p0", "p1"]
    assert prompts(DataSource(path=path, split="test")) == ["p0"]
    assert fault_of(DataSource(path=path)) == ("bad_source", "d", "split")
    assert fault_of(DataSource(path=path, split="validation")) == ("bad_source", "d", "split")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_digest_of_several_files_is_that_of_sha256sums_list(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1")
    assert digest_source(DataSource(path=str(tmp_path))) == sha("1")
    fill(tmp_path, "b/c.jsonl")
    both = sha(f"{sha('1')}  a.jsonl\n{sha(ROW)}  b/c.jsonl\n")
    assert digest_source(DataSource(path=str(tmp_path / "**" / "*.jsonl"))) == both
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert digest_source(DataSource(path=str(moved / "**" / "*.jsonl"))) == both


def test_a_digest_covers_what_is_mixed_in(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "2"), ("c", "3")):
        (tmp_path / f"{name}.jsonl").write_text(text)
    mixed = [MixedSource(path=str(tmp_path / f"{name}.jsonl"), share=0.1) for name in "bc"]
    source = DataSource(path=str(tmp_path / "a.jsonl"), mix_in=mixed)
    assert digest_source(source) == sha(f"{sha('1')}\n{sha('2')}\n{sha('3')}\n")
    (tmp_path / "c.jsonl").unlink()
    assert digest_source(source) is None
    fault = check_source(source)
    assert fault is not None
    assert (fault.code, Path(fault.path).name) == ("file_missing", "c.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_listed_is_unreadable(tmp_path: Path) -> None:
    fill(tmp_path, "d/a.jsonl")
    (tmp_path / "d").chmod(0)
    try:
        assert fault_of(DataSource(path=str(tmp_path / "d"))) == ("unreadable", "d", None)
    finally:
        (tmp_path / "d").chmod(0o755)
