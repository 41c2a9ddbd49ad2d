"""Each rule of each record, broken once by hand; and the shapes that must pass."""

import math
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf_schemas import RECORDS, Message, PreferenceRecord, PromptRecord, RolloutRecord, SFTRecord

S = {"role": "system", "content": "Be brief."}
U = {"role": "user", "content": "Hello?"}
A = {"role": "assistant", "content": "Hi."}
B = {"role": "assistant", "content": "Go away."}

ROLLOUT: dict[str, Any] = {
    "prompt": "Hello?",
    "response": "Hi.",
    "prompt_ids": [5, 6],
    "response_ids": [7, 8, 2],
    "logprobs": [-0.5, -1.0, -0.25],
    "ref_logprobs": [-0.5, -1.5, -0.25],
    "values": [0.0, 0.5, 1.0],
    "rewards": [0.0, -0.025, 1.0],
    "advantages": [0.975, 0.475, 0.0],
    "returns": [0.975, 0.975, 1.0],
    "score": 1.0,
    "finish_reason": "eos",
    "policy": "tiny-ppo@3",
    "reward_model": "tiny-reward@1",
    "step": 0,
    "seed": 7,
}

VALID = [
    ("sft", {"prompt": "Hello?", "completion": "Hi."}),
    (
        "sft",
        {"prompt": "Hello?", "completion": "Hi.", "weight": 2, "metadata": {"id": [1, None, {"a": 0.5}]}},
    ),
    ("sft", {"prompt": [U], "completion": [A]}),
    ("sft", {"prompt": [S, U, A, U], "completion": [A, U, B]}),
    ("sft", {"messages": [U, A]}),
    ("sft", {"messages": [S, U, A, U, B]}),
    ("sft", {"text": "Once upon a time."}),
    ("preference", {"prompt": "Hello?", "chosen": "Hi.", "rejected": "Go away.", "margin": 0.0}),
    ("preference", {"prompt": [S, U], "chosen": [A], "rejected": [B], "margin": 3, "weight": 0.5}),
    ("preference", {"chosen": "Hello? Hi.", "rejected": "Hello? Go away."}),
    ("preference", {"chosen": [S, U, A], "rejected": [S, U, B]}),
    ("prompt", {"prompt": "Hello?"}),
    ("prompt", {"prompt": [S, U], "metadata": {"film": "x"}}),
    ("rollout", ROLLOUT),
    ("rollout", {**ROLLOUT, "response": "", "engine_logprobs": [-0.5, -1.0, -0.25], "scores": {"rm": 1.0}}),
    ("rollout", {**ROLLOUT, "importance_weights": [1.0, 2.0, 0.5]}),
    ("rollout", {**ROLLOUT, "prompt_id": 4, "sample_index": 1, "shaped_score": 0.5, "kl_coef": 0.05}),
]

BROKEN = [
    # the base: unknown fields, no conversion between types, finite numbers, JSON in metadata
    ("prompt", {"prompt": "Hello?", "id": 1}, "extra_forbidden"),
    ("prompt", {}, "missing"),
    ("prompt", {"prompt": 3}, "wrong_type"),
    ("prompt", {"prompt": None}, "wrong_type"),
    ("prompt", {"prompt": "half \ud83d"}, "not_unicode"),
    ("prompt", {"prompt": "Hello?", "metadata": {"a": [math.nan]}}, "not_finite"),
    ("prompt", {"prompt": "Hello?", "metadata": {"a": {1, 2}}}, "not_json"),
    ("prompt", {"prompt": "Hello?", "metadata": {"a": {1: 2}}}, "not_json"),
    ("prompt", {"prompt": "Hello?", "metadata": {"a": "\udc00"}}, "not_unicode"),
    # messages
    ("prompt", {"prompt": [{"role": "tool", "content": "x"}]}, "literal_error"),
    ("prompt", {"prompt": [{"role": "user"}]}, "missing"),
    ("prompt", {"prompt": [{"role": "user", "content": " \n"}]}, "blank"),
    ("prompt", {"prompt": [{**U, "name": "x"}]}, "extra_forbidden"),
    ("prompt", {"prompt": ["Hello?"]}, "model_type"),
    # prompts
    ("prompt", {"prompt": ""}, "blank"),
    ("prompt", {"prompt": " \t\n"}, "blank"),
    ("prompt", {"prompt": []}, "blank"),
    ("prompt", {"prompt": [U, A]}, "roles"),
    ("prompt", {"prompt": [U, U]}, "roles"),
    ("prompt", {"prompt": [A, U]}, "roles"),
    ("prompt", {"prompt": [S]}, "roles"),
    ("prompt", {"prompt": [U, S, U]}, "roles"),
    ("prompt", {"prompt": [S, S, U]}, "roles"),
    # demonstrations
    ("sft", {}, "shape"),
    ("sft", {"prompt": "Hello?"}, "shape"),
    ("sft", {"completion": "Hi."}, "shape"),
    ("sft", {"prompt": "Hello?", "completion": "Hi.", "text": "x"}, "shape"),
    ("sft", {"prompt": "Hello?", "completion": "Hi.", "messages": [U, A]}, "shape"),
    ("sft", {"messages": [U, A], "text": "x"}, "shape"),
    ("sft", {"prompt": "Hello?", "completion": [A]}, "mixed"),
    ("sft", {"prompt": [U], "completion": "Hi."}, "mixed"),
    ("sft", {"prompt": "Hello?", "completion": "  "}, "blank"),
    ("sft", {"prompt": [U], "completion": [U]}, "roles"),
    ("sft", {"prompt": [U], "completion": [A, U]}, "roles"),
    ("sft", {"prompt": [U], "completion": [S, A]}, "roles"),
    ("sft", {"messages": [U]}, "roles"),
    ("sft", {"messages": [A, U, A]}, "roles"),
    ("sft", {"messages": []}, "blank"),
    ("sft", {"text": ""}, "blank"),
    ("sft", {"text": "x", "weight": 0}, "greater_than"),
    ("sft", {"text": "x", "weight": math.inf}, "finite_number"),
    ("sft", {"text": "x", "weight": "1"}, "float_type"),
    ("sft", {"text": "x", "weight": True}, "float_type"),
    # pairs
    ("preference", {"prompt": "Hello?", "chosen": "Hi."}, "missing"),
    ("preference", {"prompt": "Hello?", "chosen": "Hi.", "rejected": "Hi."}, "equal_pair"),
    ("preference", {"prompt": [U], "chosen": [A], "rejected": [A]}, "equal_pair"),
    ("preference", {"chosen": [U, A], "rejected": [U, A]}, "equal_pair"),
    ("preference", {"prompt": "Hello?", "chosen": "Hi.", "rejected": ""}, "blank"),
    ("preference", {"prompt": " ", "chosen": "Hi.", "rejected": "Go away."}, "blank"),
    ("preference", {"prompt": "Hello?", "chosen": [A], "rejected": [B]}, "mixed"),
    ("preference", {"prompt": "Hello?", "chosen": "Hi.", "rejected": [B]}, "mixed"),
    ("preference", {"prompt": [U], "chosen": [U, A], "rejected": [B]}, "roles"),
    ("preference", {"prompt": [U], "chosen": [A], "rejected": [B, U]}, "roles"),
    ("preference", {"prompt": [U, A], "chosen": [A], "rejected": [B]}, "roles"),
    ("preference", {"chosen": [A], "rejected": [U, B]}, "roles"),
    ("preference", {"chosen": [U, A], "rejected": [S, U, B]}, "no_common_prompt"),
    ("preference", {"chosen": [U, A], "rejected": [U, A, U, B]}, "no_common_prompt"),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -0.1}, "greater_than_equal"),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "margin": math.nan}, "finite_number"),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": "c", "weight": -1.0}, "greater_than"),
    # rollouts
    ("rollout", {**ROLLOUT, "response_ids": []}, "too_short"),
    ("rollout", {**ROLLOUT, "prompt_ids": []}, "too_short"),
    ("rollout", {**ROLLOUT, "prompt_ids": [1, -1]}, "greater_than_equal"),
    ("rollout", {**ROLLOUT, "prompt_ids": [1, 2.0]}, "int_type"),
    ("rollout", {**ROLLOUT, "prompt": ""}, "blank"),
    ("rollout", {**ROLLOUT, "response": "\ud83d"}, "not_unicode"),
    ("rollout", {**ROLLOUT, "logprobs": [-0.5, -math.inf, -0.25]}, "finite_number"),
    ("rollout", {**ROLLOUT, "score": math.nan}, "finite_number"),
    ("rollout", {**ROLLOUT, "finish_reason": "done"}, "literal_error"),
    ("rollout", {**ROLLOUT, "policy": ""}, "blank"),
    ("rollout", {**ROLLOUT, "reward_model": " "}, "blank"),
    ("rollout", {**ROLLOUT, "step": -1}, "greater_than_equal"),
    ("rollout", {**ROLLOUT, "seed": 1.5}, "int_type"),
    ("rollout", {**ROLLOUT, "scores": {"rm": math.inf}}, "finite_number"),
    ("rollout", {**ROLLOUT, "kl_coef": -0.1}, "greater_than_equal"),
    ("rollout", {**ROLLOUT, "sample_index": -1}, "greater_than_equal"),
    ("rollout", {**ROLLOUT, "shaped_score": math.nan}, "finite_number"),
    *(
        ("rollout", {**ROLLOUT, name: [0.5, 0.5]}, "length_mismatch")
        for name in (
            "logprobs",
            "ref_logprobs",
            "values",
            "rewards",
            "advantages",
            "returns",
            "engine_logprobs",
            "importance_weights",
        )
    ),
]


@pytest.mark.parametrize(("kind", "fields"), VALID)
def test_a_row_that_keeps_every_rule_passes_and_survives_a_round_trip(
    kind: str, fields: dict[str, Any]
) -> None:
    record = RECORDS[kind].model_validate(fields)
    assert RECORDS[kind].model_validate_json(record.model_dump_json()) == record
    assert RECORDS[kind].model_validate(record.model_dump()) == record
    assert record.model_dump(exclude_unset=True) == fields


@pytest.mark.parametrize(("kind", "fields", "rule"), BROKEN)
def test_a_row_that_breaks_one_rule_is_refused_by_that_rule_alone(
    kind: str, fields: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        RECORDS[kind].model_validate(fields)
    assert [error["type"] for error in caught.value.errors()] == [rule]


def test_every_broken_field_is_reported_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        PreferenceRecord.model_validate({"prompt": "", "chosen": [U], "rejected": 5, "margin": -1.0, "x": 1})
    assert [error["type"] for error in caught.value.errors()] == [
        "blank",
        "roles",
        "wrong_type",
        "greater_than_equal",
        "extra_forbidden",
    ]


def test_records_are_frozen() -> None:
    record = PromptRecord(prompt="Hello?")
    with pytest.raises(ValidationError, match="frozen"):
        record.prompt = "Other"  # type: ignore[misc]  # what is under test


def test_a_role_fault_names_the_message_and_the_turn_that_is_due() -> None:
    with pytest.raises(
        ValidationError, match=r"message \[2\] is the user's, where the assistant's turn is due"
    ):
        SFTRecord.model_validate({"messages": [S, U, U, A]})


def test_a_length_fault_names_every_list_that_disagrees() -> None:
    with pytest.raises(ValidationError, match="response_ids has 3 tokens, but values has 1, returns has 0"):
        RolloutRecord.model_validate({**ROLLOUT, "values": [1.0], "returns": []})


def test_the_prompt_of_an_implicit_pair_is_its_common_first_messages() -> None:
    pair = PreferenceRecord.model_validate({"chosen": [S, U, A, U, A], "rejected": [S, U, A, U, B]})
    hello, hi, away = Message(role="user", content="Hello?"), Message(**A), Message(**B)
    assert pair.explicit().prompt == [Message(**S), hello, hi, hello]
    assert pair.explicit().chosen == [hi]
    assert pair.explicit().rejected == [away]
    explicit = PreferenceRecord(prompt="Hello?", chosen="Hi.", rejected="Go away.")
    assert explicit.explicit() is explicit


@pytest.mark.parametrize("kind", RECORDS)
def test_every_record_has_a_json_schema_that_refuses_unknown_fields(kind: str) -> None:
    schema = RECORDS[kind].model_json_schema()
    assert schema["additionalProperties"] is False
    assert all("description" in field for field in schema["properties"].values())


def test_schemas_and_data_import_without_heavy_packages() -> None:
    code = (
        "import sys, rlhf_schemas, rlhf.data;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'trl', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    alone = "import sys, rlhf_schemas; print('rlhf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
