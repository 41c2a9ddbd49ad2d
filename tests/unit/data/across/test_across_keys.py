from itertools import combinations

import pytest

from rlhf.data.across import prompt_key, row_key
from rlhf_schemas import RECORDS


def make(kind, **fields):
    return RECORDS[kind].model_validate(fields)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


PAIR = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}


def test_rows_differ_in_key_where_any_text_or_role_differs():
    rows = [
        make("preference", **PAIR),
        make("preference", **{**PAIR, "prompt": "name a colour."}),
        make("preference", **{**PAIR, "chosen": "Blue"}),
        make("preference", **{**PAIR, "rejected": "Eight."}),
        make("preference", prompt="Name a colour.", chosen="Seven.", rejected="Blue."),
        make("preference", chosen="Name a colour.Blue.", rejected="Name a colour.Seven."),
        make(
            "preference",
            prompt=[user("Name a colour.")],
            chosen=[assistant("Blue.")],
            rejected=[assistant("Seven.")],
        ),
    ]
    for one, other in combinations(rows, 2):
        assert row_key(one, "preference") != row_key(other, "preference")


def test_the_boundary_between_prompt_and_completion_counts():
    one = make("sft", prompt="ab", completion="c")
    other = make("sft", prompt="a", completion="bc")
    assert row_key(one, "sft") != row_key(other, "sft")


def test_margin_weight_and_metadata_do_not_count():
    one = make("preference", **PAIR)
    other = make("preference", **PAIR, margin=2.0, weight=0.5, metadata={"by": "eve"})
    assert row_key(one, "preference") == row_key(other, "preference")


def test_a_pair_of_conversations_equals_the_pair_with_its_prompt_taken_out():
    implicit = make(
        "preference", chosen=[user("Hi?"), assistant("Yes.")], rejected=[user("Hi?"), assistant("No.")]
    )
    explicit = make(
        "preference", prompt=[user("Hi?")], chosen=[assistant("Yes.")], rejected=[assistant("No.")]
    )
    assert row_key(implicit, "preference") == row_key(explicit, "preference")
    assert prompt_key(implicit, "preference") == prompt_key(explicit, "preference")


@pytest.mark.parametrize("prompt", ["Say  hi ", "SAY HI", "say\nhi", "ｓａｙ hi"])
def test_prompts_that_differ_in_case_space_or_unicode_form_share_a_key(prompt):
    expected = prompt_key(make("prompt", prompt="say hi"), "prompt")
    assert prompt_key(make("prompt", prompt=prompt), "prompt") == expected
    assert prompt_key(make("sft", prompt=prompt, completion="hi"), "sft") == expected
    assert prompt_key(make("prompt", prompt=[user(prompt)]), "prompt") == expected
    assert prompt_key(make("sft", messages=[user(prompt), assistant("x")]), "sft") == expected


def test_other_words_a_system_message_and_earlier_turns_make_another_prompt():
    prompts = [
        "say hi",
        "say ho",
        [{"role": "system", "content": "Be brief."}, user("say hi")],
        [user("say"), assistant("hi"), user("say hi")],
    ]
    assert len({prompt_key(make("prompt", prompt=prompt), "prompt") for prompt in prompts}) == 4


def test_a_row_without_a_prompt_of_its_own_has_no_prompt_key():
    assert prompt_key(make("sft", text="Once."), "sft") is None
    assert prompt_key(make("preference", chosen="Hi? Yes.", rejected="Hi? No."), "preference") is None


def test_two_samples_of_one_prompt_are_different_rollouts():
    fields = {"prompt": "Hi?", "response": "Yes.", "prompt_ids": [1], "response_ids": [2], "score": 1.0}
    lists = {
        name: [0.0] for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    }
    origin = {
        "finish_reason": "eos",
        "policy": "p",
        "reward_model": "r",
        "seed": 0,
        "prompt_id": 3,
    }
    one = make("rollout", **fields, **lists, **origin, step=1, sample_index=0)
    other = make("rollout", **fields, **lists, **origin, step=1, sample_index=1)
    again = make("rollout", **fields, **lists, **origin, step=1, sample_index=1)
    later = make("rollout", **fields, **lists, **origin, step=2, sample_index=1)
    assert len({row_key(row, "rollout") for row in (one, other, later)}) == 3
    assert row_key(other, "rollout") == row_key(again, "rollout")
