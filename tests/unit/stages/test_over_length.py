"""Dialogues that are too long lose their oldest turns; counts, places and the prompts that PPO samples from."""

import pytest
from encoded import TOKENIZER, dialogue, ppo_section, reward_section, sft_section, split_of

from rlhf.errors import DataError
from rlhf.models.tokenizer import eos_id
from rlhf.stages.tokens.examples import demonstrations, pairs
from rlhf.stages.tokens.prompts import prompts

LONG = dialogue("first question", "first answer", "second?", "yes", "third?", "no", system="be good")
EOS = "<|eos|>"


def text_of(ids):
    return TOKENIZER.decode(ids)


def rendered(*turns):
    """As the trained tokenizer's template writes them."""
    return "".join(f"<|{role}|>{content}{EOS}" for role, content in turns)


NEWEST = (("system", "be good"), ("user", "third?"), ("assistant", "no"))
NEWER = (NEWEST[0], ("user", "second?"), ("assistant", "yes"), *NEWEST[1:])


def num_tokens(text):
    return len(TOKENIZER.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("shape", ["messages", "prompt and completion"])
def test_a_conversation_keeps_system_message_and_newest_turns(tmp_path, shape):
    row = {"messages": LONG} if shape == "messages" else {"prompt": LONG[:-1], "completion": LONG[-1:]}
    split = split_of(tmp_path, "sft", [row, {"messages": dialogue("a", "b")}])
    for turns in (NEWER, NEWEST):
        limit = num_tokens(rendered(*turns))
        section = sft_section(max_length=limit, over_length="truncate")
        examples = demonstrations(TOKENIZER, split, section, cache=tmp_path / "cache")
        assert text_of(examples.rows[0].input_ids) == rendered(*turns)
        assert str(examples) == "2 rows; too long: 0 dropped, 1 truncated"
        labels = [
            t
            for t, kept in zip(examples.rows[0].input_ids, examples.rows[0].labels_mask, strict=True)
            if kept
        ]
        learned = {"messages": {NEWER: "yes<|eos|>no<|eos|>", NEWEST: "no<|eos|>"}}
        assert text_of(labels) == learned.get(shape, {}).get(turns, "no<|eos|>")


def test_only_a_last_exchange_that_is_too_long_loses_its_end(tmp_path):
    row = {"messages": dialogue("a", "b", "c", "the cat sat on the mat.", system="be good")}
    whole = rendered(("system", "be good"), ("user", "c"), ("assistant", "the cat sat on the mat."))
    limit = num_tokens(whole) - 3
    section = sft_section(max_length=limit, over_length="truncate")
    examples = demonstrations(TOKENIZER, split_of(tmp_path, "sft", [row]), section, cache=tmp_path / "cache")
    assert examples.rows[0].input_ids == TOKENIZER.encode(whole, add_special_tokens=False)[:limit]


@pytest.mark.parametrize("given", [True, False])
def test_a_pair_loses_turns_of_the_shared_prompt_and_its_answers_stay_whole(tmp_path, given):
    prompt, yes, no = LONG[:-1], dialogue("", "no")[1:], dialogue("", "the cat sat on it")[1:]
    row = {"prompt": prompt, "chosen": yes, "rejected": no}
    if not given:
        row = {"chosen": prompt + yes, "rejected": prompt + no}
    longer = rendered(*NEWEST[:2], ("assistant", "the cat sat on it"))
    section = reward_section(max_length=num_tokens(longer), over_length="truncate")
    (pair,) = pairs(
        TOKENIZER, split_of(tmp_path, "preference", [row]), section, cache=tmp_path / "cache"
    ).rows
    assert text_of(pair.rejected_ids) == longer
    assert text_of(pair.chosen_ids) == rendered(*NEWEST)
    assert text_of(pair.prompt_ids) == rendered(*NEWEST[:2]) + "<|assistant|>"


def test_dialogues_that_are_too_long_are_still_dropped_or_an_error(tmp_path):
    split = split_of(tmp_path, "sft", [{"messages": LONG}, {"messages": dialogue("a", "b")}])
    cache = tmp_path / "cache"
    examples = demonstrations(TOKENIZER, split, sft_section(max_length=12, over_length="drop"), cache=cache)
    assert str(examples) == "1 rows; too long: 1 dropped, 0 truncated"
    with pytest.raises(DataError, match=r"sft\.jsonl:1: \d+ tokens"):
        demonstrations(TOKENIZER, split, sft_section(max_length=12), cache=cache)


ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
"""A token a character: the tokenizer has not seen them side by side."""


def test_prompts_that_are_too_long_are_an_error_with_their_places(tmp_path):
    split = split_of(tmp_path, "prompt", [{"prompt": "a"}, {"prompt": ALPHABET}])
    with pytest.raises(DataError, match=r"prompt\.jsonl:2: 36 tokens") as caught:
        prompts(TOKENIZER, split, ppo_section(max_prompt_length=20), cache=tmp_path / "cache")
    assert "ppo.over_length" in str(caught.value)
    read = prompts(TOKENIZER, split, ppo_section(max_prompt_length=40), cache=tmp_path / "cache")
    assert [prompt.prompt_id for prompt in read.rows] == [0, 1]


def test_prompts_that_are_too_long_are_dropped_and_the_others_keep_their_ids(tmp_path):
    split = split_of(tmp_path, "prompt", [{"prompt": ALPHABET}, {"prompt": "a"}])
    read = prompts(
        TOKENIZER, split, ppo_section(max_prompt_length=20, over_length="drop"), cache=tmp_path / "cache"
    )
    assert [(prompt.prompt_id, prompt.text) for prompt in read.rows] == [(1, "a")]
    assert str(read) == "1 prompts; too long: 1 dropped, 0 truncated"


def test_a_text_prompt_keeps_its_newest_tokens_and_says_so_everywhere(tmp_path):
    split = split_of(tmp_path, "prompt", [{"prompt": ALPHABET, "metadata": {"n": 1}}])
    read = prompts(
        TOKENIZER, split, ppo_section(max_prompt_length=20, over_length="truncate"), cache=tmp_path / "cache"
    )
    (prompt,) = read.rows
    assert prompt.text == prompt.record.prompt == text_of(prompt.token_ids) == ALPHABET[-20:]
    assert prompt.record.metadata == {"n": 1}
    assert str(read) == "1 prompts; too long: 0 dropped, 1 truncated"


def test_a_dialogues_prompt_loses_its_oldest_turns(tmp_path):
    rows = [{"prompt": LONG[:-1]}, {"prompt": dialogue(ALPHABET, system="be good")}]
    newest = rendered(*NEWEST[:2]) + "<|assistant|>"
    section = ppo_section(max_prompt_length=num_tokens(newest), over_length="truncate")
    read = prompts(TOKENIZER, split_of(tmp_path, "prompt", rows), section, cache=tmp_path / "cache")
    (prompt,) = read.rows
    assert text_of(prompt.token_ids) == newest
    assert prompt.text == "system: be good\nuser: third?"
    assert [turn.content for turn in prompt.record.prompt] == ["be good", "third?"]
    assert str(read) == "1 prompts; too long: 1 dropped, 1 truncated", "a newest turn is never cut"


def test_a_text_that_becomes_a_turn_is_never_cut(tmp_path):
    rows = [{"prompt": ALPHABET}, {"prompt": "a"}]
    section = ppo_section(max_prompt_length=20, over_length="truncate")
    read = prompts(
        TOKENIZER, split_of(tmp_path, "prompt", rows, chat=True), section, cache=tmp_path / "cache"
    )
    assert [prompt.text for prompt in read.rows] == ["a"]
    assert read.num_dropped == 1


def test_no_prompt_left_is_an_error(tmp_path):
    split = split_of(tmp_path, "prompt", [{"prompt": ALPHABET}])
    with pytest.raises(DataError, match="no prompt is left"):
        prompts(
            TOKENIZER, split, ppo_section(max_prompt_length=20, over_length="drop"), cache=tmp_path / "cache"
        )


def test_eos_is_one_token():
    """What the other tests take for granted."""
    assert TOKENIZER.encode(EOS, add_special_tokens=False) == [eos_id(TOKENIZER)]
