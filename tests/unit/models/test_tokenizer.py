"""Tokenizers: training, pad and EOS, digests, stop tokens; none comes from the network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.errors import ModelError
from rlhf.models.tokenizer import (
    chat_template_digest,
    load_tokenizer,
    stop_token_ids,
    tokenizer_digest,
    train_tokenizer,
)

TEXTS = ["the film was good", "the film was bad", "a film about the sea"] * 3
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def saved(folder: Path, specials: list[str], template: str | None = None, **roles: str) -> Path:
    """A byte-level tokenizer without merges on disk: `specials` have the ids from 256 on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def test_a_trained_tokenizer_writes_every_text() -> None:
    tokenizer = train_tokenizer(TEXTS, 280)
    text = "naïve 日本 🙂\n\ttabs  and   spaces \x00"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer) == 280


def test_a_trained_tokenizer_renders_turns_that_end_at_eos() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Be brief.<|eos|><|user|>Hi<|eos|><|assistant|>"
    assert tokenizer.encode("<|pad|><|eos|><|system|><|user|><|assistant|>") == [0, 1, 2, 3, 4]


def test_training_gives_the_same_tokenizer_in_another_process() -> None:
    code = (
        "from rlhf.models.tokenizer import *;"
        f"print(tokenizer_digest(train_tokenizer({TEXTS!r}, 300)), end='')"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other == tokenizer_digest(train_tokenizer(TEXTS, 300))
    assert other != tokenizer_digest(train_tokenizer([*TEXTS, "zebra " * 50], 300))


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ModelError, match="vocab_size=260"):
        train_tokenizer(TEXTS, 260)


def test_digests_survive_saving(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer("batch state", truncation=True, max_length=2, padding="max_length")
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert tokenizer_digest(loaded) == tokenizer_digest(tokenizer)
    assert chat_template_digest(loaded) == chat_template_digest(tokenizer)


def test_a_prepared_tokenizer_keeps_its_digest_when_saved_and_prepared_again(tmp_path: Path) -> None:
    first = load_tokenizer(saved(tmp_path / "a", ["<|endoftext|>"], eos_token="<|endoftext|>"))
    first.save_pretrained(tmp_path / "b")
    second = load_tokenizer(tmp_path / "b")
    assert tokenizer_digest(second) == tokenizer_digest(first)
    assert (second.pad_token, second.padding_side, len(second)) == ("<|pad|>", "left", 258)


def test_line_08_digests_tell_tokenizers_and_templates_apart(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokens, template = tokenizer_digest(tokenizer), chat_template_digest(tokenizer)
    tokenizer.chat_template = CHATML
    assert tokenizer_digest(tokenizer) == tokens
    assert chat_template_digest(tokenizer) != template
    tokenizer.eos_token = "<|user|>"
    assert tokenizer_digest(tokenizer) != tokens
    tokenizer.chat_template = None
    assert chat_template_digest(tokenizer) is None


@pytest.mark.parametrize(
    ("specials", "roles", "template", "pad"),
    [
        (["<e>"], {"eos_token": "<e>"}, None, "<|pad|>"),
        (["<e>"], {"eos_token": "<e>", "pad_token": "<e>"}, None, "<|pad|>"),
        (["<e>", "<u>"], {"eos_token": "<e>", "unk_token": "<u>"}, None, "<u>"),
        (["<e>"], {"eos_token": "<e>", "unk_token": "<e>", "bos_token": "<e>"}, None, "<|pad|>"),
        (["<e>", "<u>", "<reserved_1>"], {"eos_token": "<e>", "unk_token": "<u>"}, None, "<reserved_1>"),
        (["<e>", "<image_pad>", "<reserved_1>", "<right_pad>"], {"eos_token": "<e>"}, None, "<right_pad>"),
        (["<e>", "<kept>"], {"eos_token": "<e>", "pad_token": "<kept>"}, None, "<kept>"),
        (["<|im_start|>", "<|im_end|>"], {"eos_token": "<|im_end|>"}, CHATML, "<|pad|>"),
        (
            ["<e>", "<|im_start|>", "<|im_end|>"],
            {"eos_token": "<e>", "pad_token": "<|im_end|>", "unk_token": "<|im_start|>"},
            CHATML,
            "<|pad|>",
        ),
    ],
)
def test_pad_is_no_token_that_a_sequence_holds(
    tmp_path: Path, specials: list[str], roles: dict[str, str], template: str | None, pad: str
) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, specials, template, **roles))
    assert tokenizer.pad_token == pad
    assert len(tokenizer) == 256 + len(specials) + (pad == "<|pad|>")
    assert tokenizer.encode(pad, add_special_tokens=False) == [tokenizer.pad_token_id]


def test_stop_tokens_are_eos_end_of_turn_and_the_models_own_but_never_pad(tmp_path: Path) -> None:
    specials = ["<e>", "<|im_start|>", "<|im_end|>", "<pad>", "<x>"]  # 256 … 260
    tokenizer = load_tokenizer(saved(tmp_path, specials, CHATML, eos_token="<e>", pad_token="<pad>"))
    assert stop_token_ids(tokenizer) == (256, 258)
    assert stop_token_ids(tokenizer, 260) == (256, 258, 260)
    assert stop_token_ids(tokenizer, [258, 259, 260]) == (256, 258, 260)
    tokenizer.chat_template = None
    assert stop_token_ids(tokenizer) == (256,)


def test_a_template_file_replaces_the_template(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}<e>{% endfor %}\n")
    folder = saved(tmp_path / "tokenizer", ["<e>", "<|im_end|>"], CHATML, eos_token="<e>")
    tokenizer = load_tokenizer(folder, chat_template_file=file)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hé"}], tokenize=False) == "Hé<e>"


def test_what_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(tmp_path / "empty")
    broken = saved(tmp_path / "broken", ["<e>"], eos_token="<e>")
    (broken / "tokenizer.json").write_text((broken / "tokenizer.json").read_text()[:200])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(broken)
    with pytest.raises(ModelError, match="has no EOS token"):
        load_tokenizer(saved(tmp_path / "endless", ["<u>"], unk_token="<u>"))
    good = saved(tmp_path / "good", ["<e>"], eos_token="<e>")
    with pytest.raises(ModelError, match=r"template cannot be read"):
        load_tokenizer(good, chat_template_file=tmp_path / "absent.jinja")


def test_the_digest_is_of_the_vocabulary_too(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["<e>"], eos_token="<e>")
    before = tokenizer_digest(load_tokenizer(folder))
    rules = json.loads((folder / "tokenizer.json").read_text())
    vocab = rules["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    assert tokenizer_digest(load_tokenizer(folder)) != before
