"""Mapping, further columns, tables with JSON in their cells, faults that pass through."""

from datetime import datetime

from rlhf.data.convert import Candidate, convert_rows
from rlhf.data.fault import make_fault
from rlhf.data.place import Place, Row
from rlhf.recipe.data import DataSource

ROW = {"instruction": "q", "input": None, "output": "a"}


def test_a_mapped_field_is_read_from_that_column_alone(convert, faults) -> None:
    row = {"question": "q", "instruction": "an id", "output": "a"}
    columns = {"instruction": "question"}
    made = [(1, {"prompt": "q", "completion": "a", "metadata": {"instruction": "an id"}})]
    assert convert([row], "sft", shape="alpaca", columns=columns) == made
    assert faults([{"instruction": "q", "output": "a"}], "sft", shape="alpaca", columns=columns) == [
        (1, "missing_field", "instruction")
    ]


def test_a_missing_field_is_told_with_its_column_and_the_row_s() -> None:
    source = DataSource(path="x", shape="alpaca", columns={"instruction": "question"})
    (made,) = convert_rows(
        [Row({"q": "x", "output": "a"}, Place("x", 3, 3))], source, "sft", "jsonl", "alpaca"
    )
    assert isinstance(made, Candidate)
    assert made.fields is None
    assert made.faults[0].message == "is missing: `columns` takes it from 'question'; the row has q, output"


def test_other_columns_are_kept_unless_extra_is_set_to_error(convert, faults) -> None:
    rows = [ROW | {"id": 3, "day": datetime(2024, 5, 1, 12, 30), "note": None, "metadata": {"k": 1}}]
    kept = {"id": 3, "day": "2024-05-01T12:30:00", "k": 1}
    assert convert(rows, "sft") == [(1, {"prompt": "q", "completion": "a", "metadata": kept})]
    assert convert(rows, "sft", extra="metadata") == convert(rows, "sft")
    assert faults(rows, "sft", extra="error") == [(1, "unknown_field", "id"), (1, "unknown_field", "day")]


def test_metadata_that_is_no_object_is_kept_under_its_name_and_clashes_are_faults(convert, faults) -> None:
    assert convert([ROW | {"metadata": "v1"}], "prompt") == [
        (1, {"prompt": "q", "metadata": {"metadata": "v1"}})
    ]
    assert faults([ROW | {"metadata": {"id": 1}, "id": 2}], "sft") == [(1, "metadata_clash", "id")]


def test_an_empty_cell_is_the_row_s_fault_and_an_absent_column_the_file_s(faults) -> None:
    assert faults([ROW, ROW | {"output": None}, {"instruction": "q"}], "sft", "parquet") == [
        (2, "wrong_type", "output"),
        (3, "missing_field", "output"),
    ]


def test_weight_and_margin_are_the_record_s(convert) -> None:
    assert convert([ROW | {"weight": 2.0, "margin": 1}], "sft") == [
        (1, {"prompt": "q", "completion": "a", "weight": 2.0, "metadata": {"margin": 1}})
    ]
    pair = {"instruction": "q", "chosen": "a", "rejected": "b", "margin": 0.5, "weight": 3.0}
    fields = {"prompt": "q", "chosen": "a", "rejected": "b", "margin": 0.5, "weight": 3.0}
    assert convert([pair], "preference") == [(1, fields)]
    mapped = {"instruction": "q", "chosen": "a", "rejected": "b", "gap": "0.5"}
    assert (
        convert([mapped], "preference", "csv", shape="alpaca", columns={"margin": "gap"})[0][1]["margin"]
        == 0.5
    )


def test_cells_of_tables_hold_lists_as_json(convert, faults) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    cell = '[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]'
    for fmt in ("csv", "tsv", "parquet"):
        assert convert([{"conversations": cell, "system": ""}], "sft", fmt) == [(1, {"messages": turns})]
    rated = {"prompt": "q", "responses": '["a", "b"]', "scores": "[1, 2]"}
    assert convert([rated], "preference", "csv")[0][1]["chosen"] == "b"
    assert faults([{"conversations": cell}, {"conversations": cell[:-9]}], "sft", "csv") == [
        (2, "truncated", "conversations")
    ]
    assert faults([{"conversations": cell}], "sft", "jsonl") == [(1, "wrong_type", "conversations")]


def test_messages_in_cells_of_csv_are_read_and_other_brackets_are_text(convert) -> None:
    prompt = '[{"role": "user", "content": "q"}]'
    rows = [
        {"prompt": prompt, "response": "[1]", "score": "2.5"},
        {"prompt": prompt, "response": "[2]", "score": "1"},
    ]
    (line, fields), *rest = convert(rows, "preference", "csv")
    assert (line, rest) == (1, [])
    assert fields["prompt"] == [{"role": "user", "content": "q"}]
    assert (fields["chosen"], fields["rejected"], fields["margin"]) == ("[1]", "[2]", 1.5)


def test_faults_of_reading_pass_through_in_order() -> None:
    fault = make_fault("bad_json", Place("x", 2, 2), "is not JSON")
    rows = [Row(ROW, Place("x", 1, 1)), fault, Row(ROW, Place("x", 3, 3))]
    first, second, third = convert_rows(rows, DataSource(path="x"), "sft", "jsonl", "alpaca")
    assert isinstance(first, Candidate)
    assert second is fault
    assert isinstance(third, Candidate)
    own = [Row({"prompt": "q"}, Place("x", 1, 1)), fault]
    assert list(convert_rows(own, DataSource(path="x"), "prompt", "jsonl", "records")) == [
        Candidate({"prompt": "q"}, own[0], []),
        fault,
    ]


def test_a_value_nested_too_deeply_is_a_fault_not_a_crash(faults) -> None:
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    row = {"prompt": "q", "response": "a", "score": 1}
    assert faults([row, row | {"response": deep}, row | {"score": 2, "response": "b"}], "preference") == [
        (2, "bad_json", None)
    ]
    assert faults([ROW, ROW | {"instruction": deep}], "sft") == [(2, "wrong_type", "instruction")]
    assert faults([ROW | {"id": deep}], "sft", shape="alpaca", extra="error") == [(1, "unknown_field", "id")]
