"""What stays of a history, and of a text prompt, that is too long."""

import pytest
from tokenizers_by_hand import byte_level, llama2, metaspace, turns

from rlhf.models.sequences import encode_prompt
from rlhf.models.turns import newest_text, newest_turns
from rlhf_schemas import Message

SYSTEM = Message(role="system", content="s")


def contents(some):
    return "".join(turn.content for turn in some)


def shorter_than(limit, asked=None):
    def fits(some):
        if asked is not None:
            asked.append(contents(some))
        return len(contents(some)) <= limit

    return fits


@pytest.mark.parametrize(("limit", "expected"), [(6, "sefg"), (4, "sefg"), (5, "sefg"), (2, "sg"), (0, "sg")])
def test_a_prompt_keeps_system_message_and_newest_turns(limit, expected):
    """Seven turns and the system message; what is left begins with a user's turn, so it is 6, 4 or 2 turns."""
    prompt = [SYSTEM, *turns(*"abcdefg")]
    if limit == 6:
        expected = "scdefg"
    assert contents(newest_turns(prompt, keep=1, fits=shorter_than(limit))) == expected


def test_the_last_exchange_of_a_conversation_stays():
    assert contents(newest_turns(turns(*"abcdef"), keep=2, fits=shorter_than(5))) == "cdef"
    assert contents(newest_turns(turns(*"abcdef"), keep=2, fits=shorter_than(1))) == "ef"


def test_a_single_exchange_has_no_history():
    assert contents(newest_turns(turns(*"ab"), keep=2, fits=shorter_than(0))) == "ab"
    assert contents(newest_turns([SYSTEM, *turns("a")], keep=1, fits=shorter_than(0))) == "sa"


def test_a_long_dialogue_is_encoded_a_few_times_alone():
    asked: list[str] = []
    dialogue = turns(*["x"] * 2001)
    kept = newest_turns(dialogue, keep=1, fits=shorter_than(101, asked))
    assert len(kept) == 101
    assert len(asked) <= 10, "log2 of 1000 exchanges"


def test_a_text_keeps_its_newest_tokens():
    tokenizer = byte_level("<e>", eos_token="<e>")
    text = "the film was good , and the answer is good or bad"
    whole = encode_prompt(tokenizer, text)
    end, ids = newest_text(tokenizer, text, 5)
    assert ids == whole[-5:]
    assert text.endswith(end)
    assert tokenizer.decode(ids) == end


def test_a_text_begins_with_bos_still():
    tokenizer = metaspace("first")
    text = "the answer is good or bad"
    whole = encode_prompt(tokenizer, text)
    end, ids = newest_text(tokenizer, text, 4)
    assert (whole[0], ids[0]) == (1, 1)
    assert ids[1:] == whole[-len(ids) + 1 :]
    assert len(ids) <= 4
    assert text.endswith(end)


@pytest.mark.parametrize(
    "make", [lambda: byte_level("<e>", eos_token="<e>"), llama2], ids=["bytes", "llama2"]
)
def test_a_text_is_cut_where_the_tokenizer_would_write_its_end_alike(make):
    """Not inside a character of several bytes, and for Llama 2 not inside a word, in front of which it puts a space."""
    tokenizer = make()
    text = "good film 🎬🎬 so good"
    whole = encode_prompt(tokenizer, text)
    for limit in range(2, len(whole)):
        found = newest_text(tokenizer, text, limit)
        if found is not None:
            end, ids = found
            assert text.endswith(end)
            assert "�" not in end
            assert len(ids) <= limit
            assert encode_prompt(tokenizer, end) == ids


def test_no_end_of_a_text_may_fit():
    tokenizer = byte_level("<e>", eos_token="<e>")
    assert newest_text(tokenizer, "good 🎬", 2) is None, "an emoji has four bytes"
