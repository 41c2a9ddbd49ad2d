"""Which chat templates and conversations are refused, and what they are told."""

import pytest
from tokenizers_by_hand import (
    CHATS,
    IM,
    NO_END,
    NO_GENERATION_PROMPT,
    REWRITES,
    byte_level,
    chatml,
    llama3,
    turns,
)

from rlhf.errors import DataError, ModelError
from rlhf.models.chat_template import PlainTurn, check_chat_template, conversation_spans, end_of_turn_id
from rlhf.models.sequences import encode_completion, encode_prompt, encode_sft
from rlhf_schemas import SFTRecord


def test_spans_part_what_the_model_writes_from_what_it_is_given() -> None:
    spans = conversation_spans(chatml(), turns("Hi", "good", "and ?"), generation_prompt=True)
    start = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert [(span.text, span.by_model) for span in spans] == [
        (start, False),
        ("good<|im_end|>", True),
        ("\n<|im_start|>user\nand ?<|im_end|>\n<|im_start|>assistant\n", False),
    ]


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    tokenizer = byte_level(*IM, template=REWRITES, eos_token="<|im_end|>")
    with pytest.raises(ModelError, match=r"rewrites what it rendered before.*thinking"):
        encode_sft(tokenizer, SFTRecord(messages=turns("Hi", "good", "and ?", "bad")))
    with pytest.raises(ModelError, match="rewrites"):
        encode_prompt(tokenizer, turns("Hi", "good", "and ?"))
    with pytest.raises(ModelError, match="rewrites"):
        check_chat_template(tokenizer, multi_turn=True)
    check_chat_template(tokenizer)
    encoded = encode_sft(tokenizer, SFTRecord(messages=turns("Hi", "good")))
    assert (
        tokenizer.decode([i for i, kept in zip(encoded.input_ids, encoded.labels_mask, strict=True) if kept])
        == "(thinking)\ngood<|im_end|>"
    )


def test_a_template_that_trims_an_answer_is_refused_there() -> None:
    tokenizer = llama3()
    check_chat_template(tokenizer, multi_turn=True)
    with pytest.raises(DataError, match="alters an assistant turn: 'good ' became 'good'"):
        encode_sft(tokenizer, SFTRecord(messages=turns("Hi", "good ")))


@pytest.mark.parametrize("style", CHATS)
def test_good_templates_pass_the_check(style: str) -> None:
    check_chat_template(CHATS[style][0](), multi_turn=True)


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        (None, "no chat template"),
        (NO_END, "no special token"),
        (NO_GENERATION_PROMPT, "no generation prompt"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{% for m in messages %}", "fails on a plain probe"),
    ],
)
def test_bad_templates_are_refused_with_their_cause(template: str | None, cause: str) -> None:
    tokenizer = byte_level(*IM, template=template, eos_token="<|im_end|>")
    with pytest.raises(ModelError, match=cause) as caught:
        check_chat_template(tokenizer)
    assert caught.value.remedy is not None


def test_conversations_that_a_template_or_ppo_cannot_take_are_refused() -> None:
    gemma = CHATS["gemma"][0]()
    with pytest.raises(DataError, match=r"refuses .* system, user: no system role"):
        encode_prompt(gemma, [PlainTurn("system", "Be brief."), PlainTurn("user", "Hi")])
    with pytest.raises(DataError, match="begins with an assistant turn, or is empty"):
        encode_prompt(gemma, [])
    with pytest.raises(DataError, match="ends with an assistant turn"):
        encode_prompt(gemma, turns("Hi", "good"))
    with pytest.raises(DataError, match="the other is turns"):
        encode_completion(gemma, "Hi", turns("?", "good")[1:])
    with pytest.raises(DataError, match="does not start with an assistant turn"):
        encode_completion(gemma, turns("Hi"), turns("Hi", "good"))
    with pytest.raises(DataError, match="does not end with an assistant turn"):
        encode_completion(gemma, turns("Hi"), turns("?", "good", "and ?")[1:])


def test_a_white_space_token_before_the_end_is_not_the_end_of_turn() -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n<e>' }}{% endfor %}"
    tokenizer = byte_level("<e>", "\n\n", template=template, eos_token="<e>")
    assert tokenizer.encode("\n\n<e>") == [1, 0]
    assert end_of_turn_id(tokenizer) == 0
