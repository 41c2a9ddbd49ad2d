"""Mapping of columns, faults of rows with their places, reports, loading."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.data import CHECKS, Fault, Located, check, scan
from rlhf.data.prepare import PreparedSplit
from rlhf.errors import DataError
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.data import DataSource, RecordKind
from rlhf.recipe.recipe import ReadSplit
from rlhf_schemas import PreferenceRecord, SFTRecord

U = {"role": "user", "content": "Hello?"}
A = {"role": "assistant", "content": "Hi."}
B = {"role": "assistant", "content": "Go away."}


def jsonl(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def csv(folder: Path, text: str) -> str:
    path = folder / "x.csv"
    path.write_text(text)
    return str(path)


def parquet(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def load(source: DataSource, kind: RecordKind) -> list[Located[Any]]:
    """The records as a stage reads them."""
    return list(PreparedSplit(ReadSplit("x.train", kind, source), chat=False, checks=ChecksSection()))


def found(path: str, kind: RecordKind, **options: Any) -> list[tuple[str, int | None, str | None]]:
    report = check(DataSource(path=path, **options), kind, checks=None)
    return [(fault.code, fault.line, fault.field) for fault in report.faults]


def only(path: str, kind: RecordKind, **options: Any) -> Fault:
    (fault,) = check(DataSource(path=path, **options), kind, checks=None).faults
    return fault


def test_each_broken_rule_has_its_line_field_value_and_remedy(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        [
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            {"prompt": "a", "chosen": "b", "rejected": "b"},
            {"prompt": "", "chosen": "b", "rejected": "c"},
            {"prompt": [U, {"role": "user", "content": ""}], "chosen": [A], "rejected": [B]},
            {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "0.5"},
            {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1},
            {"prompt": "a", "chosen": "b", "rejected": [B]},
        ],
    )
    report = check(DataSource(path=path), "preference")
    assert [str(fault).removeprefix(path) for fault in report.faults] == [
        ":2: chosen: is equal to rejected (value 'b'). Remove the row: a pair of equals prefers nothing.",
        ":3: prompt: is blank (value ''). Give text, or remove the row.",
        ":4: prompt[1].content: is blank (value ''). Give text, or remove the row.",
        ":5: margin: should be a valid number (value '0.5'). Give a value of the right type.",
        ":6: margin: should be greater than or equal to 0 (value -1). Give a value in the range.",
        f":7: rejected: is not of chosen's form: both are text, or both are messages (value {[B]}). {CHECKS['mixed'].remedy}",
    ]
    assert report.num_rows == 7
    assert report.counts == {"equal_pair": 1, "blank": 2, "wrong_type": 1, "out_of_range": 1, "mixed": 1}


def test_one_row_reports_all_its_faults(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"prompt": " ", "chosen": 3, "id": 1, "margin": "x"}])
    assert found(path, "preference") == [
        ("unknown_field", 1, "id"),
        ("blank", 1, "prompt"),
        ("wrong_type", 1, "chosen"),
        ("missing_field", 1, "rejected"),
        ("wrong_type", 1, "margin"),
    ]


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    fault = only(jsonl(tmp_path, [{"prompt": "a", "chosen": "b" * 500, "rejected": "b" * 500}]), "preference")
    assert fault.value == "'" + "b" * 58 + "…"


def test_an_unknown_column_is_refused_or_kept_under_metadata(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        [{"prompt": "a", "film": "x", "year": 1999}, {"prompt": "b", "metadata": {"k": 1}, "film": "y"}],
    )
    fault = check(DataSource(path=path), "prompt").faults[0]
    assert (fault.code, fault.field, fault.value) == ("unknown_field", "film", "'x'")
    assert "`columns`" in fault.remedy
    assert "`extra: metadata`" in fault.remedy
    records = load(DataSource(path=path, extra="metadata"), "prompt")
    assert [item.record.metadata for item in records] == [{"film": "x", "year": 1999}, {"k": 1, "film": "y"}]


def test_a_column_that_metadata_has_too_is_a_fault(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"prompt": "a", "film": "x", "metadata": {"film": "y"}}])
    assert found(path, "prompt", extra="metadata") == [("metadata_clash", 1, "film")]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"question": "a", "answer": "b", "prompt": "an id"}])
    columns = {"prompt": "question", "completion": "answer"}
    (item,) = load(DataSource(path=path, columns=columns, extra="metadata"), "sft")
    assert item.record == SFTRecord(prompt="a", completion="b", metadata={"prompt": "an id"})
    assert found(path, "sft", columns=columns) == [("unknown_field", 1, "prompt")]


def test_a_missing_field_names_the_columns_that_the_row_has(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"question": "a", "chosen": "b"}])
    fault = check(DataSource(path=path, columns={"prompt": "question"}), "preference").faults[0]
    assert (fault.field, fault.message) == ("rejected", "is missing; the row has question, chosen")
    fault = check(DataSource(path=path, columns={"prompt": "q"}, extra="metadata"), "prompt").faults[0]
    assert fault.message == "is missing: `columns` takes it from 'q'; the row has question, chosen"
    fault = check(DataSource(path=path, extra="metadata", shape="records"), "sft").faults[0]
    assert fault.message == (
        "has none of its fields: a record is prompt and completion, or messages, or text; the row has question, chosen"
    )


def test_columns_that_name_no_field_are_a_fault(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"prompt": "a"}])
    assert found(path, "prompt", columns={"promt": "prompt"}) == [
        ("bad_source", None, "columns"),
    ]


def test_a_null_is_an_absent_field_but_for_the_prompt_of_a_pair(tmp_path: Path) -> None:
    pair = {"chosen": "b", "rejected": "c", "margin": None, "metadata": None}
    assert found(jsonl(tmp_path, [{"prompt": "a", **pair}, pair]), "preference") == []
    assert found(jsonl(tmp_path, [{"prompt": None, **pair}]), "preference") == [("null_prompt", 1, "prompt")]
    row = {"prompt": "a", "completion": "b", "messages": None, "text": None}
    assert found(jsonl(tmp_path, [row]), "sft") == []
    assert found(jsonl(tmp_path, [{"prompt": None}]), "prompt") == [("wrong_type", 1, "prompt")]


def test_csv_cells_become_numbers_objects_and_messages(tmp_path: Path) -> None:
    text = 'prompt,chosen,rejected,margin,weight,metadata\na,[b],"[{c",0.5,,\n"[]",3,4,2,1,"{""k"": [1]}"\n'
    first, second = load(DataSource(path=csv(tmp_path, text)), "preference")
    assert first.record == PreferenceRecord(prompt="a", chosen="[b]", rejected="[{c", margin=0.5)
    assert second.record.model_dump() == {
        "prompt": "[]",
        "chosen": "3",
        "rejected": "4",
        "margin": 2.0,
        "weight": 1.0,
        "metadata": {"k": [1]},
    }
    cell = json.dumps([U, A]).replace('"', '""')
    (item,) = load(DataSource(path=csv(tmp_path, f'messages\n"{cell}"\n')), "sft")
    assert item.record == SFTRecord.model_validate({"messages": [U, A]})


def test_csv_cells_that_are_wrong_have_their_line(tmp_path: Path) -> None:
    text = 'prompt,chosen,rejected,margin,metadata\n,b,c,,\na,b,c,x,\na,b,c,nan,\na,b,c,1_0,\na,b,c,,{k\na,"[{""role"": 1",c,,\n'
    assert found(csv(tmp_path, text), "preference") == [
        ("blank", 2, "prompt"),
        ("wrong_type", 3, "margin"),
        ("not_finite", 4, "margin"),
        ("wrong_type", 5, "margin"),
        ("bad_json", 6, "metadata"),
        ("truncated", 7, "chosen"),
    ]


def test_a_tables_columns_are_one_fault_each_and_its_cells_one_each(tmp_path: Path) -> None:
    path = csv(tmp_path, "prompt,chosen,film\na,b,x\n,b,y\na,b,z\n")
    assert found(path, "preference") == [
        ("unknown_field", 1, "film"),
        ("missing_field", 1, "rejected"),
        ("blank", 3, "prompt"),
    ]
    rows = [{"prompt": [{**U, "name": "x"}]}, {"prompt": [{**U, "name": "y"}]}]
    faults = check(DataSource(path=parquet(tmp_path, rows)), "prompt").faults
    assert [(fault.code, fault.row, fault.field) for fault in faults] == [
        ("unknown_field", 1, "prompt[0].name"),
        ("unknown_field", 2, "prompt[0].name"),
    ]


def test_parquet_holds_messages_nulls_and_json_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": [U], "completion": [A], "metadata": '{"k": 1}', "weight": None},
        {"prompt": [U], "completion": [B], "metadata": None, "weight": 2.0},
    ]
    first, second = load(DataSource(path=parquet(tmp_path, rows)), "sft")
    assert first.record == SFTRecord.model_validate({"prompt": [U], "completion": [A], "metadata": {"k": 1}})
    assert second.record == SFTRecord.model_validate({"prompt": [U], "completion": [B], "weight": 2.0})
    assert (second.place.line, second.place.row) == (None, 2)


def test_with_chat_rows_that_have_no_turns_are_faults(tmp_path: Path) -> None:
    source = DataSource(
        path=jsonl(tmp_path, [{"prompt": "a", "completion": "b"}, {"text": "c"}, {"messages": [U, A]}])
    )
    assert check(source, "sft").num_faults == 0
    assert [(fault.code, fault.line) for fault in check(source, "sft", chat=True).faults] == [
        ("cannot_chat", 2)
    ]
    pairs = [{"chosen": "a", "rejected": "b"}, {"chosen": [U, A], "rejected": [U, B]}]
    source = DataSource(path=jsonl(tmp_path, pairs))
    assert check(source, "preference").num_faults == 0
    assert [(fault.code, fault.line) for fault in check(source, "preference", chat=True).faults] == [
        ("cannot_chat", 1)
    ]


def test_load_gives_records_with_their_lines(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    items = load(DataSource(path=path), "prompt")
    assert [(item.record.prompt, item.place) for item in items] == [("a", (path, 1, 1)), ("b", (path, 2, 2))]


def test_load_refuses_a_source_with_a_single_faulty_row(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"prompt": "a"}, {"prompt": ""}])
    with pytest.raises(DataError) as caught:
        load(DataSource(path=path), "prompt")
    assert caught.value.message == (
        f"{path}: 1 fault (blank 1)\n  {path}:2: prompt: is blank (value ''). Give text, or remove the row."
    )
    assert caught.value.remedy == f"See them all with `rlhf validate {path} --as prompt`."


def test_load_lists_the_first_twenty_faults_and_counts_all(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"prompt": ""}] * 25 + [{"prompt": 1}] * 5)
    with pytest.raises(DataError) as caught:
        load(DataSource(path=path), "prompt")
    lines = caught.value.message.split("\n")
    assert lines[0] == f"{path}: 30 faults (blank 25, wrong_type 5)"
    assert len(lines) == 22
    assert f"{path}:20: " in lines[20]
    assert lines[21] == "  … and 10 more"


def test_a_report_keeps_few_faults_and_counts_all_and_no_code_is_crowded_out(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"prompt": ""}] * 50 + [{"prompt": 1}] * 50)
    report = check(DataSource(path=path), "prompt", max_faults=20)
    assert report.counts == {"blank": 50, "wrong_type": 50}
    assert (report.num_faults, report.num_rows) == (100, 100)
    assert [fault.line for fault in report.faults] == [*range(1, 21), *range(51, 61)]


def test_scanning_holds_one_row_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a"}\n' * 3)
    stream = scan(DataSource(path=str(path)), "prompt")
    first = next(stream)
    assert not isinstance(first, Fault)
    assert first.place.line == 1
