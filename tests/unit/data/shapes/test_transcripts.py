"""HH-RLHF: where turns start, what is tolerated, what is not a transcript."""

import time

import pytest

from rlhf.data.shapes.transcript import read_transcript

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("\n\nHuman: q\n\nAssistant: a", [U, A]),
        ("Human: q\n\nAssistant: a", [U, A]),
        ("  \n Human:q\n \n\n  Assistant:   a\n\n", [U, A]),
        ("\r\n\r\nHuman: q\r\n\r\nAssistant: a", [U, A]),
        ("Be brief.\n\nHuman: q\n\nAssistant: a", [{"role": "system", "content": "Be brief."}, U, A]),
        (
            "\n\nHuman: Say Human: or\nAssistant: x\n\nThen stop.\n\nAssistant: a",
            [{"role": "user", "content": "Say Human: or\nAssistant: x\n\nThen stop."}, A],
        ),
        ("\n\nHuman: q\n\nAssistant:", [U, {"role": "assistant", "content": ""}]),
    ],
)
def test_a_turn_starts_at_the_start_and_after_an_empty_line(text: str, turns: list[dict[str, str]]) -> None:
    assert read_transcript(text, "text") == turns


@pytest.mark.parametrize(
    "text",
    [
        "no turns",
        "",
        "\n\nAssistant: a\n\nHuman: q",
        "\n\nHuman: q\n\nHuman: q\n\nAssistant: a",
        "\n\nHuman: \n\nAssistant: a",
        "\n\nHuman: q\n\nAssistant: \n\nHuman: q\n\nAssistant: a",
        "\n\nHuman: q\n\nAssistant: ",
        "\n\nHuman: q",
    ],
)
def test_what_is_no_demonstration_is_told(faults, text: str) -> None:
    assert faults([{"text": text}], "sft", shape="transcript") == [(1, "bad_transcript", "text")]


def test_a_pair_may_differ_from_an_earlier_turn_on(convert, faults) -> None:
    row = {
        "chosen": "\n\nHuman: q\n\nAssistant: a",
        "rejected": "\n\nHuman: q\n\nAssistant: b\n\nHuman: why\n\nAssistant: c",
    }
    rejected = [
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "why"},
        {"role": "assistant", "content": "c"},
    ]
    assert convert([row], "preference") == [(1, {"prompt": [U], "chosen": [A], "rejected": rejected})]
    assert faults([row, row | {"rejected": "x"}], "preference") == [(2, "bad_transcript", "rejected")]


def test_a_prompt_column_is_the_dialogue_and_the_others_are_answers(convert) -> None:
    row = {"prompt": "\n\nHuman: q\n\nAssistant:", "response": " a", "chosen": " a", "rejected": " b"}
    assert convert([row], "preference") == [
        (1, {"prompt": [U], "chosen": [A], "rejected": [{"role": "assistant", "content": "b"}]})
    ]
    assert convert([row], "sft") == [(1, {"prompt": [U], "completion": [A]})]
    assert convert([row], "prompt") == [(1, {"prompt": [U]})]


def test_long_runs_of_empty_lines_are_read_in_linear_time() -> None:
    start = time.perf_counter()
    read_transcript("\n\nHuman: q" + "\n" * 200_000 + "x" + " \n" * 100_000 + "\n\nAssistant: a", "text")
    assert time.perf_counter() - start < 5
