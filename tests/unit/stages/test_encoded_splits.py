"""Splits as tokens: what is a label, what is too long and where, what the chat template is asked first."""

import json
from pathlib import Path

import pytest

from rlhf.errors import DataError, ModelError
from rlhf.models.tokenizer import eos_id, train_tokenizer
from rlhf.recipe import DataSource
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.recipe import ReadSplit
from rlhf.recipe.training import RewardSection, SFTSection
from rlhf.stages.sft import _dataset
from rlhf.stages.tokens import examples as examples_module
from rlhf.stages.tokens.splits import Split

PLAIN = {"learning_rate": 1e-3, "global_batch_size": 2, "per_device_batch_size": 2}
TOKENIZER = train_tokenizer(["the cat sat on the mat. is it good? it is fine."] * 3, 300)
EOS = eos_id(TOKENIZER)


def source(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataSource(path=str(path))


def demonstrations(tokenizer, source, section, *, chat):
    """With a cache beside the file."""
    split = Split(ReadSplit("sft.train", "sft", source), chat, ChecksSection())
    return examples_module.demonstrations(tokenizer, split, section, cache=Path(source.path).parent / "cache")


def pairs(tokenizer, source, section, *, chat):
    """With a cache beside the file."""
    split = Split(ReadSplit("preference.train", "preference", source), chat, ChecksSection())
    return examples_module.pairs(tokenizer, split, section, cache=Path(source.path).parent / "cache")


def sft(**changes):
    return SFTSection.model_validate(PLAIN | changes)


def labelled(row):
    """The text that the loss counts."""
    return TOKENIZER.decode([t for t, kept in zip(row.input_ids, row.labels_mask, strict=True) if kept])


def test_line_05_labels_are_the_completion_and_its_end_alone(tmp_path):
    rows = [{"prompt": "is it good?", "completion": " it is fine.", "weight": 2.5}]
    for chat in (False, True):
        examples = demonstrations(TOKENIZER, source(tmp_path, rows), sft(), chat=chat)
        (row,) = examples.rows
        assert labelled(row) == " it is fine.<|eos|>"
        assert row.input_ids[-1] == EOS
        assert row.weight == 2.5
        labels = _dataset(examples)[0]["labels"]
        assert TOKENIZER.decode([t for t in labels if t != -100]) == " it is fine.<|eos|>"
        assert len(labels) == len(row.input_ids)


def test_line_05_labels_are_every_assistant_turn_and_nothing_else(tmp_path):
    turns = [
        ("system", "be good"),
        ("user", "the cat?"),
        ("assistant", "sat"),
        ("user", "mat?"),
        ("assistant", "on"),
    ]
    rows = [{"messages": [{"role": role, "content": content} for role, content in turns]}]
    (row,) = demonstrations(TOKENIZER, source(tmp_path, rows), sft(), chat=False).rows
    assert labelled(row) == "sat<|eos|>on<|eos|>"
    assert row.weight == 1.0


def lengths(tmp_path, num_rows=4):
    """Demonstrations of which the second and the fourth are longer than 12 tokens."""
    texts = [("a b", " c"), ("a b", " the cat sat on the mat. it is fine. it is fine."), ("a", " b")]
    texts.append(("the cat sat on the mat. is it good? it is fine. abcdefghijklmnop", " x"))
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in texts[:num_rows]]
    return source(tmp_path, rows)


def test_rows_that_are_too_long_are_an_error_with_their_places(tmp_path):
    split = lengths(tmp_path)
    with pytest.raises(DataError) as caught:
        demonstrations(TOKENIZER, split, sft(max_length=12), chat=False)
    message = str(caught.value)
    assert "2 row(s) are longer than max_length=12" in message
    assert f"{split.path}:2: " in message
    assert f"{split.path}:4: " in message
    assert f"{split.path}:1: " not in message


def test_rows_that_are_too_long_are_dropped_and_counted(tmp_path):
    examples = demonstrations(
        TOKENIZER, lengths(tmp_path), sft(max_length=12, over_length="drop"), chat=False
    )
    assert [labelled(row) for row in examples.rows] == [" c<|eos|>", " b<|eos|>"]
    assert (examples.num_dropped, examples.num_truncated) == (2, 0)


def test_rows_that_are_too_long_are_truncated_and_counted(tmp_path):
    section = sft(max_length=12, over_length="truncate")
    split = lengths(tmp_path, 3)
    whole = demonstrations(TOKENIZER, split, sft(max_length=500), chat=False).rows
    examples = demonstrations(TOKENIZER, split, section, chat=False)
    assert (examples.num_dropped, examples.num_truncated) == (0, 1)
    assert [row.input_ids for row in examples.rows] == [row.input_ids[:12] for row in whole]
    assert str(examples) == "3 rows; too long: 0 dropped, 1 truncated"


def test_line_06_a_row_without_a_label_after_truncation_is_an_error_with_a_count(tmp_path):
    split = lengths(tmp_path)
    with pytest.raises(DataError) as caught:
        demonstrations(TOKENIZER, split, sft(max_length=12, over_length="truncate"), chat=False)
    # the fourth row's prompt alone fills the 12 tokens
    assert "1 row(s) would have no label left within max_length=12" in str(caught.value)
    assert f"{split.path}:4" in str(caught.value)


def test_a_split_of_which_nothing_is_left_is_an_error(tmp_path):
    rows = [{"prompt": "the cat sat on the mat", "completion": " it is fine"}]
    with pytest.raises(DataError, match="no row is left"):
        demonstrations(TOKENIZER, source(tmp_path, rows), sft(max_length=8, over_length="drop"), chat=False)


def reward(**changes):
    return RewardSection.model_validate(PLAIN | changes)


def test_pairs_end_at_eos_and_know_their_prompt(tmp_path):
    ask = [{"role": "user", "content": "is it good?"}]
    yes, no = ([*ask, {"role": "assistant", "content": text}] for text in ("it is", "fine."))
    rows = [
        {"prompt": "is it good?", "chosen": " it is", "rejected": " fine.", "margin": 2.0, "weight": 0.5},
        {"prompt": ask, "chosen": yes[1:], "rejected": no[1:]},
        {"chosen": yes, "rejected": no},
        {"chosen": "is it? it is", "rejected": "is it? fine."},
    ]
    text, turns, implicit, plain = pairs(TOKENIZER, source(tmp_path, rows), reward(), chat=False).rows
    for row in (text, turns, implicit, plain):
        assert row.chosen_ids[-1] == row.rejected_ids[-1] == EOS
        assert TOKENIZER.pad_token_id != EOS
    assert (text.margin, text.weight) == (2.0, 0.5)
    assert implicit == turns
    assert implicit.chosen_ids[: len(implicit.prompt_ids)] == implicit.prompt_ids
    assert TOKENIZER.decode(implicit.prompt_ids).endswith("<|assistant|>")
    assert plain.prompt_ids is None


def test_line_06_a_pair_that_truncation_makes_equal_is_dropped(tmp_path):
    rows = [
        {
            "prompt": "a",
            "chosen": " the cat sat on the mat. good",
            "rejected": " the cat sat on the mat. bad",
        },
        {"prompt": "a", "chosen": " c", "rejected": " d"},
    ]
    examples = pairs(
        TOKENIZER, source(tmp_path, rows), reward(max_length=8, over_length="truncate"), chat=False
    )
    assert len(examples.rows) == 1
    assert (examples.num_dropped, examples.num_truncated) == (1, 0)


NO_END = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"


def test_a_template_that_cannot_be_trained_on_is_refused_where_it_is_used(tmp_path):
    tokenizer = train_tokenizer(["a cat"], 300)
    tokenizer.chat_template = NO_END
    text = source(tmp_path, [{"prompt": "a", "completion": " cat"}])
    assert len(demonstrations(tokenizer, text, sft(), chat=False).rows) == 1
    with pytest.raises(ModelError, match="no special token"):
        demonstrations(tokenizer, text, sft(), chat=True)


def test_a_template_that_rewrites_earlier_turns_is_refused_only_for_several_turns(tmp_path):
    tokenizer = train_tokenizer(["a cat"], 300)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}"
        "{% if m.role == 'assistant' and loop.last %}{{ '(thinking)' }}{% endif %}{{ m.content + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )

    def messages(count):
        roles = ["user", "assistant"] * count
        return [{"role": role, "content": f"text {n}"} for n, role in enumerate(roles)]

    single = source(tmp_path, [{"messages": messages(1)}])
    assert len(demonstrations(tokenizer, single, sft(), chat=False).rows) == 1
    with pytest.raises(ModelError, match="rewrites"):
        demonstrations(tokenizer, source(tmp_path, [{"messages": messages(2)}]), sft(), chat=False)
