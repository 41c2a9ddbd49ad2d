"""Which shape the first row shows, and what is said of rows of none."""

from typing import Any

import pytest

from rlhf.data.convert import detect_shape, is_grouped, source_fault, unknown_shape
from rlhf.data.place import Place, Row
from rlhf.recipe.data import DataSource, RecordKind, Shape

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
HH = "\n\nHuman: q\n\nAssistant: a"


def shape_of(values: dict[str, Any], kind: RecordKind, **options: Any) -> Shape | None:
    return detect_shape(DataSource(path="x", **options), kind, Row(values, Place("x", 1, 1)))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("sft", {"prompt": "q", "completion": "a"}),
        ("sft", {"prompt": "q", "completion": "a", "label": True}),
        ("sft", {"prompt": "q", "completion": "a", "instruction": "q", "output": "a"}),
        ("sft", {"messages": [U, A]}),
        ("sft", {"messages": [U, A], "id": 1}),
        ("sft", {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'}),
        ("sft", {"text": "He said.\n\nHuman: no"}),
        ("sft", {"prompt": "q"}),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}),
        (
            "preference",
            {"prompt": "q", "chosen": "a", "rejected": "b", "responses": ["a", "b"], "scores": [1, 2]},
        ),
        ("preference", {"prompt": [U], "chosen": [A], "rejected": [A]}),
        ("preference", {"chosen": [U, A], "rejected": [U, A]}),
        ("preference", {"question": "q", "chosen": "a", "rejected": "b"}),
        ("prompt", {"prompt": "q", "film": "x"}),
        ("prompt", {"text": "a line"}),
        ("prompt", {}),
        ("rollout", {"input": "q", "action": "a", "reward": 1}),
    ],
)
def test_our_own_and_trls_rows_are_records(kind: RecordKind, values: dict[str, Any]) -> None:
    assert shape_of(values, kind) == "records"


@pytest.mark.parametrize(
    ("shape", "kind", "values"),
    [
        ("alpaca", "sft", {"instruction": "q", "context": "", "response": "a", "category": "qa"}),
        ("alpaca", "sft", {"instruction": "q", "input": "", "output": "a", "score": 3}),
        ("scored", "preference", {"instruction": "q", "input": "", "output": "a", "score": 3}),
        ("scored", "preference", {"prompt": "q", "completion": "a", "label": False}),
        ("scored", "preference", {"prompt": [U], "completion": [A], "label": True}),
        ("scored", "sft", {"question": "q", "answer": "a", "rating": "4"}),
        ("rollouts", "preference", {"query": "q", "action": "a", "reward": 1.0}),
        ("rollouts", "prompt", {"state": "q", "response": "a", "reward": 1.0}),
        ("sharegpt", "sft", {"messages": [{"from": "human", "value": "q"}]}),
        ("sharegpt", "sft", {"conversation": '[{"from": "human", "value": "q"}]'}),
        ("openai", "sft", {"messages": [U, {**A, "weight": 0}]}),
        ("openai", "sft", {"messages": [U, {"role": "tool", "content": "3"}]}),
        ("openai", "sft", {"messages": [U, A], "tools": [{"type": "function"}]}),
        ("openai", "sft", {"conversations": [U, A]}),
        ("openai", "prompt", {"messages": [U, A]}),
        ("binarized", "sft", {"prompt": "q", "prompt_id": "1", "messages": [U, A]}),
        ("binarized", "preference", {"prompt": "q", "chosen": [U, A], "rejected": [U, A]}),
        ("transcript", "preference", {"chosen": HH, "rejected": HH}),
        ("transcript", "preference", {"prompt": HH, "chosen": "a", "rejected": "b"}),
        ("transcript", "sft", {"text": HH.lstrip()}),
        ("transcript", "sft", {"prompt": "\n\nHuman: q\n\nAssistant:", "response": "a"}),
        ("transcript", "prompt", {"prompt": HH}),
        ("rated", "preference", {"prompt": "q", "answers": ["a", "b"], "ranks": [1, 2]}),
    ],
)
def test_other_shapes_are_found(shape: Shape, kind: RecordKind, values: dict[str, Any]) -> None:
    assert shape_of(values, kind) == shape


def test_a_named_shape_and_a_mapping_come_before_what_the_row_shows() -> None:
    row = {"conversations": [{"from": "human", "value": "q"}]}
    assert shape_of(row, "sft", shape="openai") == "openai"
    assert shape_of(row, "sft", columns={"messages": "conversations"}) == "records"
    assert shape_of({"conversations": 3}, "sft", shape="sharegpt", columns={"tools": "t"}) == "sharegpt"


@pytest.mark.parametrize("kind", ["sft", "preference", "prompt"])
def test_rows_of_no_shape_are_told_with_their_columns_and_the_way_on(kind: RecordKind) -> None:
    row = Row({"q": "x", "a": "y"}, Place("x.csv", 2, 1))
    source = DataSource(path="x.csv")
    assert detect_shape(source, kind, row) is None
    fault = unknown_shape(source, kind, row)
    assert (fault.code, fault.line, fault.severity) == ("unknown_shape", 2, "error")
    assert fault.message == f"has columns that are no known shape of {kind} records: q, a"
    assert fault.remedy.startswith("If these are no names of columns, give the table a header. Map")
    assert "`columns: {prompt: q}` (--column prompt=q), or name the `shape` (--shape)" in fault.remedy
    assert "sharegpt" in fault.remedy


def test_rows_under_a_key_are_told_to_be_the_file() -> None:
    row = Row({"version": "1", "data": [{"prompt": "a"}, {"prompt": "b"}]}, Place("x.json", 1, 1))
    fault = unknown_shape(DataSource(path="x.json"), "prompt", row)
    assert fault.remedy == "If 'data' holds the rows, save that list alone as the file."


def test_a_shape_that_makes_no_such_records_is_a_fault_of_the_source() -> None:
    fault = source_fault(DataSource(path="x", shape="scored"), "rollout", "scored", "x")
    assert fault is not None
    assert (fault.code, fault.field) == ("bad_source", "shape")
    assert fault.message == "has the shape scored, which makes sft, preference and prompt records"
    assert source_fault(DataSource(path="x"), "rollout", "records", "x") is None


def test_columns_map_fields_of_the_shape_and_nothing_else() -> None:
    source = DataSource(path="x", shape="alpaca", columns={"instruction": "q", "weight": "w", "prompt": "p"})
    fault = source_fault(source, "sft", "alpaca", "x")
    assert fault is not None
    assert (fault.code, fault.field) == ("bad_source", "columns")
    assert fault.message == (
        "has `columns` for what is not a field of the shape alpaca, which has instruction, input, output, chosen, "
        "rejected, system, history, text: prompt"
    )
    wrong = source_fault(DataSource(path="x", columns={"promt": "p"}), "prompt", "records", "x")
    assert wrong is not None
    assert wrong.message == "has `columns` for what is not a field of prompt records: promt"


def test_answers_in_several_rows_make_one_record_for_pairs_alone() -> None:
    grouped = [
        shape
        for shape in ("records", "alpaca", "scored", "rated", "rollouts")
        if is_grouped(shape, "preference")
    ]
    assert grouped == ["scored", "rollouts"]
    assert not is_grouped("scored", "sft")
