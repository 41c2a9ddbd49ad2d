"""ShareGPT, OpenAI, binarised: speakers, contents and what is refused."""

from typing import Any

import pytest

from rlhf.data.shapes.turns import pair_of, prompt_of

U, A, B = (
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
    {"role": "assistant", "content": "b"},
)
H, G = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}


def test_speakers_are_known_in_any_case(convert) -> None:
    turns = [
        {"from": "System ", "value": "s"},
        {"from": "USER", "value": "q"},
        {"from": "ChatGPT", "value": "a"},
    ]
    assert convert([{"conversations": turns}], "sft") == [
        (1, {"messages": [{"role": "system", "content": "s"}, U, A]})
    ]


@pytest.mark.parametrize(
    ("turn", "code", "field"),
    [
        ({"from": "narrator", "value": "x"}, "unknown_role", "conversations[1].from"),
        ({"from": 3, "value": "x"}, "unknown_role", "conversations[1].from"),
        ({"from": "observation", "value": "x"}, "tool_calls", "conversations[1].from"),
        ({"from": "function_call", "value": "{}"}, "tool_calls", "conversations[1].from"),
        ({"value": "x"}, "missing_field", "conversations[1].role"),
        ({"from": "gpt", "value": None}, "missing_field", "conversations[1].content"),
        ({**G, "weight": 0}, "out_of_range", "conversations[1].weight"),
        ("a", "wrong_type", "conversations[1]"),
    ],
)
def test_a_turn_that_cannot_be_read_is_told(faults, turn: Any, code: str, field: str) -> None:
    assert faults([{"conversations": [H, G]}, {"conversations": [H, turn]}], "sft") == [(2, code, field)]


def test_a_weight_matters_for_demonstrations_alone(convert) -> None:
    turns = [{**H, "weight": 0.0}, {**G, "weight": 1.0}]
    assert convert([{"conversations": turns}], "sft") == [(1, {"messages": [U, A]})]
    assert convert([{"conversations": [H, {**G, "weight": 0}]}], "prompt") == [(1, {"prompt": [U]})]


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ({"messages": [U, A | {"tool_calls": [{"id": "1"}]}]}, "tool_calls", "messages[1].tool_calls"),
        (
            {"messages": [U, {"role": "assistant", "content": None, "function_call": {"name": "f"}}]},
            "tool_calls",
            "messages[1].function_call",
        ),
        ({"messages": [U, A, {"role": "tool", "content": "3"}]}, "tool_calls", "messages[2].role"),
        ({"messages": [U, A], "tools": [{"type": "function"}]}, "tool_calls", "tools"),
        ({"messages": [U, A | {"weight": 0}]}, "out_of_range", "messages[1].weight"),
        ({"messages": "hello"}, "wrong_type", "messages"),
        ({"id": 1}, "missing_field", "messages"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
                    A,
                ]
            },
            "wrong_type",
            "messages[0].content[0]",
        ),
    ],
)
def test_what_openai_allows_and_we_do_not_is_told(faults, row: dict[str, Any], code: str, field: str) -> None:
    assert faults([row], "sft", shape="openai") == [(1, code, field)]


def test_absent_calls_and_empty_declarations_are_nothing(convert) -> None:
    nulls = {"tool_calls": None, "function_call": None, "name": None, "weight": None}
    row = {"messages": [U | nulls, A | nulls], "tools": [], "functions": None}
    assert convert([row], "sft") == [(1, {"messages": [U, A]})]


def test_text_parts_are_joined(convert) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    row = {"messages": [{"role": "user", "content": parts}, A]}
    assert convert([row], "sft") == [(1, {"messages": [{"role": "user", "content": "one two"}, A]})]


def test_preferences_of_the_fine_tuning_api_need_all_three(faults) -> None:
    row = {
        "input": {"messages": [U], "tools": [{"type": "function"}]},
        "preferred_output": [A],
        "non_preferred_output": [B],
    }
    assert faults([row], "preference") == [(1, "tool_calls", "input.tools")]
    del row["preferred_output"]
    row["input"] = {"messages": [U]}
    assert faults([row], "preference", shape="openai") == [(1, "missing_field", "preferred_output")]
    assert faults([{"input": {}}], "prompt", shape="openai") == [(1, "missing_field", "input.messages")]
    assert faults([{"input": "q"}], "prompt", shape="openai") == [(1, "wrong_type", "input")]


def test_whole_conversations_make_a_pair_with_their_common_start(convert) -> None:
    row = {"chosen": [H, G], "rejected": [H, {"from": "bard", "value": "b"}], "system": "s"}
    system = {"role": "system", "content": "s"}
    assert convert([row], "preference") == [(1, {"prompt": [system, U], "chosen": [A], "rejected": [B]})]


def test_conversations_without_a_common_prompt_are_left_whole_for_the_record_to_refuse() -> None:
    assert pair_of([U, A], [U, A]) == {"chosen": [U, A], "rejected": [U, A]}
    assert pair_of([U, A, U, A], [U, A]) == {"chosen": [U, A, U, A], "rejected": [U, A]}
    assert pair_of([U, A], [A]) == {"chosen": [U, A], "rejected": [A]}
    assert pair_of([U, A, U, A], [U, A, U, B]) == {"prompt": [U, A, U], "chosen": [A], "rejected": [B]}


def test_a_prompt_ends_with_the_users_last_turn() -> None:
    assert prompt_of([U, A, U, A]) == [U, A, U]
    assert prompt_of([A]) == [A]


def test_binarised_prompts_must_be_what_the_conversations_ask(faults, convert) -> None:
    row = {"prompt": "q ", "chosen": [U, A], "rejected": [U, B], "score_chosen": 2.0, "score_rejected": 3.0}
    scores = {"score_chosen": 2.0, "score_rejected": 3.0}
    assert convert([row], "preference") == [
        (1, {"prompt": [U], "chosen": [A], "rejected": [B], "metadata": scores})
    ]
    assert convert([row | {"score_chosen": 3.0, "margin": 7.0}], "preference")[0][1]["margin"] == 7.0
    assert faults([row | {"prompt": "another"}], "preference") == [(1, "no_common_prompt", "prompt")]
    assert faults([row | {"score_chosen": "N/A"}], "preference") == [(1, "wrong_type", "score_chosen")]


def test_the_prompt_of_a_long_conversation_is_its_first_question(convert) -> None:
    system = {"role": "system", "content": "s"}
    row = {"prompt": "q", "messages": [system, U, A, {"role": "user", "content": "more"}, B]}
    assert convert([row], "prompt") == [(1, {"prompt": [system, U]})]
    assert convert([{"prompt": "q"}], "prompt", shape="binarized") == [(1, {"prompt": [U]})]
