"""Records as tokens: boundaries, labels, one BOS, one end token; tokenizers in the styles of known models."""

from collections.abc import Callable

import pytest
from tokenizers import normalizers
from tokenizers_by_hand import CHATS, MISTRAL, byte_level, chatml, llama2, llama3, metaspace, turns
from transformers import PreTrainedTokenizerFast

from rlhf.errors import DataError
from rlhf.models.chat_template import end_of_turn_id
from rlhf.models.sequences import Encoded, encode_completion, encode_pair, encode_prompt, encode_sft
from rlhf_schemas import PreferenceRecord, SFTRecord

"""Records as tokens: boundaries, labels, one BOS, one end token; templates and tokenizers in the styles of known models."""


def labels(encoded: Encoded) -> list[int]:
    return [token for token, kept in zip(encoded.input_ids, encoded.labels_mask, strict=True) if kept]


@pytest.mark.parametrize("style", CHATS)
def test_line_05_labels_are_the_answers_and_their_ends(style: str) -> None:
    make, end = CHATS[style]
    tokenizer = make()
    encoded = encode_sft(tokenizer, SFTRecord(messages=turns("the film ?", "good", "and there ?", "was bad")))
    lead = " " if tokenizer.chat_template == MISTRAL else ""
    written = tokenizer.decode(labels(encoded)).removeprefix(" ")  # a Metaspace decoder drops the first space
    assert written == f"{lead}good{end}{lead}was bad{end}".removeprefix(" ")
    assert encoded.labels_mask[-1] is True
    assert encoded.input_ids[-1] == tokenizer.convert_tokens_to_ids(end) == end_of_turn_id(tokenizer)


@pytest.mark.parametrize("style", [style for style in CHATS if style not in ("metaspace always", "llama2")])
def test_tokens_are_those_of_the_rendered_conversation(style: str) -> None:
    """transformers tokenises the whole text at once: an independent reference, cut after the last end of turn.

    Not for those that put a space behind each special token inside a text too.
    """
    make, end = CHATS[style]
    tokenizer = make()
    messages = turns("the film ?", "good", "and there ?", "was bad")
    plain = [message.model_dump() for message in messages]
    reference = tokenizer.apply_chat_template(plain, tokenize=True, return_dict=False)
    last = len(reference) - reference[::-1].index(tokenizer.convert_tokens_to_ids(end))
    assert encode_sft(tokenizer, SFTRecord(messages=messages)).input_ids == reference[:last]


@pytest.mark.parametrize("style", CHATS)
def test_a_conversation_begins_with_the_prompt_that_ppo_feeds_at_each_turn(style: str) -> None:
    tokenizer = CHATS[style][0]()
    messages = turns("the film ?", "good", "and there ?", "was bad")
    encoded = encode_sft(tokenizer, SFTRecord(messages=messages))
    for end in (1, 3):
        prompt = encode_prompt(tokenizer, messages[:end])
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels_mask[len(prompt) - 1 : len(prompt) + 1] == [False, True]


@pytest.mark.parametrize("style", CHATS)
def test_line_04_the_reward_model_sees_what_ppo_and_sft_see(style: str) -> None:
    tokenizer = CHATS[style][0]()
    prompt, good, bad = turns("the film ?"), turns("?", "good")[1:], turns("?", "bad")[1:]
    chosen, rejected = encode_pair(tokenizer, PreferenceRecord(prompt=prompt, chosen=good, rejected=bad))
    start = encode_prompt(tokenizer, prompt)
    assert chosen == start + encode_completion(tokenizer, prompt, good)
    assert rejected == start + encode_completion(tokenizer, prompt, bad)
    assert chosen == encode_sft(tokenizer, SFTRecord(prompt=prompt, completion=good)).input_ids
    whole = PreferenceRecord(chosen=prompt + good, rejected=prompt + bad)
    assert encode_pair(tokenizer, whole) == (chosen, rejected)
    wrapped = PreferenceRecord(prompt="the film ?", chosen="good", rejected="bad")
    assert encode_pair(tokenizer, wrapped, chat=True) == (chosen, rejected)


@pytest.mark.parametrize("style", CHATS)
def test_line_01_an_empty_answer_is_its_end_token_alone(style: str) -> None:
    tokenizer = CHATS[style][0]()
    ids = encode_completion(tokenizer, "the film ?", "", chat=True)
    lead = tokenizer.chat_template == MISTRAL  # this template writes a space first
    assert len(ids) == 1 + lead
    assert ids[-1] == end_of_turn_id(tokenizer)


@pytest.mark.parametrize("answer", ["🙂 naïve 日本", "\n\nHi", "  two spaces", "é" * 3, " the film\n"])
def test_any_text_is_written_exactly_after_any_prompt(answer: str) -> None:
    tokenizer = chatml()
    for prompt in ("the film", "the film ", "was\n", "日"):
        for chat in (False, True):
            start = encode_prompt(tokenizer, prompt, chat=chat)
            encoded = encode_sft(tokenizer, SFTRecord(prompt=prompt, completion=answer), chat=chat)
            assert encoded.input_ids[: len(start)] == start
            assert encoded.labels_mask == [False] * len(start) + [True] * (
                len(encoded.input_ids) - len(start)
            )
            assert tokenizer.decode(labels(encoded)) == answer + "<|im_end|>"


def test_a_default_system_turn_is_in_prompt_and_demonstration() -> None:
    tokenizer = chatml()
    head = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(encode_prompt(tokenizer, "Hi", chat=True)) == head
    encoded = encode_sft(tokenizer, SFTRecord(messages=turns("Hi", "good")))
    assert tokenizer.decode(encoded.input_ids) == head + "good<|im_end|>"


def test_line_05_a_template_decides_on_bos_and_text_gets_the_tokenizers_own() -> None:
    assert encode_prompt(llama3(), "Hi", chat=True).count(0) == 1
    assert encode_prompt(llama3(), "Hi").count(0) == 0  # this tokenizer adds none to text
    tokenizer = metaspace("first", MISTRAL)
    assert encode_prompt(tokenizer, "the film", chat=True).count(1) == 1
    for text in ("the film", "<s>the film"):
        ids = encode_sft(tokenizer, SFTRecord(text=text)).input_ids
        assert (ids[0], ids.count(1), ids[-1], ids.count(2)) == (1, 1, 2, 1)
        assert encode_prompt(tokenizer, text)[0] == 1
        assert encode_prompt(tokenizer, text).count(1) == 1


def test_line_01_with_pad_equal_to_eos_the_final_eos_is_a_label() -> None:
    tokenizer = byte_level("<e>", eos_token="<e>", pad_token="<e>", bos_token="<e>")
    encoded = encode_sft(tokenizer, SFTRecord(prompt="the film", completion=" was good"))
    assert labels(encoded)[-1] == 0
    assert tokenizer.decode(labels(encoded)) == " was good<e>"
    assert encode_completion(tokenizer, "the film", "") == [0]


def test_an_eos_that_the_data_carry_is_not_doubled_and_one_inside_is_refused() -> None:
    tokenizer = byte_level("<e>", eos_token="<e>")
    assert encode_completion(tokenizer, "the film", " good<e>") == encode_completion(
        tokenizer, "the film", " good"
    )
    assert encode_sft(tokenizer, SFTRecord(text="good<e>")).input_ids.count(0) == 1
    for record in (SFTRecord(prompt="the", completion="a<e>b"), SFTRecord(text="a<e>b")):
        with pytest.raises(DataError, match="stands inside"):
            encode_sft(tokenizer, record)
    with pytest.raises(DataError, match="contains the end-of-turn token"):
        encode_sft(chatml(), SFTRecord(messages=turns("Hi", "good<|im_end|>")))
    with pytest.raises(
        DataError, match="stands inside"
    ):  # EOS, where the template ends turns with another token
        encode_sft(llama3(), SFTRecord(messages=turns("Hi", "good<e> film")))


def test_a_prompt_may_hold_eos() -> None:
    tokenizer = byte_level("<e>", eos_token="<e>")
    encoded = encode_sft(tokenizer, SFTRecord(prompt="the<e>film", completion=" good"))
    assert encoded.input_ids.count(0) == 2
    assert tokenizer.decode(labels(encoded)) == " good<e>"


@pytest.mark.parametrize("make", [lambda: metaspace("first"), lambda: metaspace("always"), llama2])
@pytest.mark.parametrize("answer", ["good", " good", "a. good", "\ngood"])
def test_no_space_is_added_where_a_tokenizer_begins_texts_with_one(
    make: Callable[[], PreTrainedTokenizerFast], answer: str
) -> None:
    tokenizer = make()
    encoded = encode_sft(tokenizer, SFTRecord(prompt="the film", completion=answer))
    assert tokenizer.decode(encoded.input_ids) == f"<s> the film{answer}</s>"
    assert encoded.input_ids[: encoded.labels_mask.index(True)] == encode_prompt(tokenizer, "the film")


def test_characters_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(DataError, match="cannot write this text exactly"):
        encode_completion(metaspace("first"), "the film", " 日本")


def test_an_implicit_text_pair_has_no_prompt_part() -> None:
    tokenizer = byte_level("<e>", eos_token="<e>")
    pair = encode_pair(tokenizer, PreferenceRecord(chosen="the film good", rejected="the film bad"))
    assert [tokenizer.decode(ids) for ids in pair] == ["the film good<e>", "the film bad<e>"]


def test_only_the_completion_of_a_longer_conversation_is_learnt() -> None:
    tokenizer = chatml()
    messages = turns("Hi", "good", "and ?", "was bad", "there ?", "the answer")
    record = SFTRecord(prompt=messages[:3], completion=messages[3:])
    assert tokenizer.decode(labels(encode_sft(tokenizer, record))) == "was bad<|im_end|>the answer<|im_end|>"


def test_chat_wants_prompt_and_completion_apart() -> None:
    with pytest.raises(DataError, match="without the prompt apart"):
        encode_sft(chatml(), SFTRecord(text="the film"), chat=True)
    with pytest.raises(DataError, match="without the prompt apart"):
        encode_pair(chatml(), PreferenceRecord(chosen="the film", rejected="a film"), chat=True)


def test_a_tokenizer_that_normalises_unicode_is_taken_at_its_word() -> None:
    tokenizer = byte_level("<e>", eos_token="<e>")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    encoded = encode_sft(tokenizer, SFTRecord(prompt="the film", completion=" e\u0301"))
    assert tokenizer.decode(labels(encoded)) == " \u00e9<e>"
