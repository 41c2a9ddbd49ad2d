"""Our own shape: cells of tables, null prompts, lines of plain text."""

from rlhf.data.convert import Candidate, convert_rows
from rlhf.data.place import Place, Row
from rlhf.recipe.data import DataSource, FileFormat, RecordKind


def only(values: dict[str, object], kind: RecordKind, fmt: FileFormat) -> Candidate:
    (made,) = convert_rows([Row(values, Place("x", 1, 1))], DataSource(path="x"), kind, fmt, "records")
    assert isinstance(made, Candidate)
    return made


def test_tab_separated_cells_become_what_csv_cells_do() -> None:
    row = {"prompt": '[{"role": "user", "content": "q"}]', "chosen": "[b]", "margin": "0.5", "weight": ""}
    for fmt in ("csv", "tsv"):
        assert only(row, "preference", fmt).fields == {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": "[b]",
            "margin": 0.5,
        }


def test_metadata_is_json_text_in_arrow_files() -> None:
    for fmt in ("parquet", "arrow", "hub"):
        assert only({"prompt": "q", "metadata": '{"k": 1}'}, "prompt", fmt).fields == {
            "prompt": "q",
            "metadata": {"k": 1},
        }


def test_lines_of_plain_text_are_texts_or_prompts() -> None:
    assert only({"text": "a line"}, "sft", "text").fields == {"text": "a line"}
    assert only({"text": "a line"}, "prompt", "text").fields == {"prompt": "a line"}
    assert [fault.code for fault in only({"text": "a line"}, "prompt", "jsonl").faults] == ["unknown_field"]


def test_a_pair_with_a_null_prompt_is_not_looked_at_further() -> None:
    made = only({"prompt": None, "chosen": "a", "rejected": "a"}, "preference", "jsonl")
    assert made.fields is None
    assert [fault.code for fault in made.faults] == ["null_prompt"]
