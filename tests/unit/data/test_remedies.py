"""What a fault says to do fits what is wrong there."""

import json
from pathlib import Path

import pytest

from rlhf.data import check
from rlhf.recipe.data import DataSource, RecordKind

LAYOUT = "Write one whole object a line"
SYNTAX = "Correct the JSON there"


def told(tmp_path: Path, text: str, kind: RecordKind = "sft") -> list[tuple[str, str, str]]:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    report = check(DataSource(path=str(path)), kind)
    return [(fault.code, fault.message, fault.remedy) for fault in report.faults]


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("{", LAYOUT),
        ('{"prompt": "a"}{"prompt": "b"}', LAYOUT),
        ('{"prompt": "a"},', LAYOUT),
        ("{'prompt': 'a'}", SYNTAX),
        ('{"messages": [{"role": "user"}, {"role": "x"},]}', SYNTAX),
        ('"prompt": "a",', SYNTAX),
    ],
)
def test_objects_that_do_not_end_with_their_line_are_told_apart_from_bad_syntax(
    line: str, remedy: str, tmp_path: Path
) -> None:
    ((code, _, way_out),) = told(tmp_path, line + '\n{"prompt": "a?", "completion": "b."}\n')
    assert (code, way_out.startswith(remedy)) == ("bad_json", True)


def test_a_number_of_thousands_of_digits_is_told_without_pythons_words(tmp_path: Path) -> None:
    ((code, message, _),) = told(
        tmp_path, '{"prompt": "a", "completion": "b", "weight": ' + "9" * 5000 + "}\n"
    )
    assert (code, message) == ("bad_json", "has a number of thousands of digits")


def test_what_is_no_message_is_told_what_one_is(tmp_path: Path) -> None:
    ((code, message, _),) = told(tmp_path, '{"prompt": ["Hello?"], "completion": "b"}\n')
    assert (code, message) == ("wrong_type", "should be a message: an object with role and content")


def test_a_turn_that_calls_a_tool_is_one_fault_and_other_turns_have_their_own(tmp_path: Path) -> None:
    plain = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}]
    calling = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    rows = [
        {"messages": plain},
        {"messages": [plain[0], calling]},
        {"messages": [{**plain[0], "content": 3}]},
    ]
    found = told(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    assert [code for code, _, _ in found] == ["tool_calls", "wrong_type"]


def test_a_control_character_is_told_as_one(tmp_path: Path) -> None:
    ((code, message, _),) = told(tmp_path, '{"prompt": "a\\u001b[0m", "completion": "b"}\n')
    assert (code, message) == ("control_char", "a control character inside a text")
