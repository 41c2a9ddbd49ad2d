"""Tokenizers: loading one and making it fit for all three stages, training a small one, its identity, its stop tokens."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.errors import ModelError
from rlhf.models.chat_template import end_of_turn_id

PAD, EOS = "<|pad|>", "<|eos|>"
ROLES = ("system", "user", "assistant")
TRAINED_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' ~ message['role']) }}"
    "{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def load_tokenizer(
    path: str | Path,
    *,
    revision: str | None = None,
    chat_template_file: str | Path | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """Load a tokenizer and prepare it once for the whole pipeline; what is published is the prepared one.

    The pad token is neither EOS nor the end-of-turn token afterwards: a reward model's head reads the score at the
    last token that is not pad, and sequences end at EOS. Where it must be chosen, an unused token of the vocabulary
    is taken (named pad, then reserved, then the unknown token), else `<|pad|>` is added: compare `len(tokenizer)`
    with the embedding. Padding is set to the left, for those who generate from the published model in batches;
    the pipeline itself pads by lengths and does not look at it.

    Raises:
        ModelError: nothing to load there, no EOS token, or the template file cannot be read.
    """
    tokenizer = _from_pretrained(path, revision, trust_remote_code)
    if chat_template_file is not None:
        tokenizer.chat_template = _read_template(Path(chat_template_file))
    ends = {eos_id(tokenizer), end_of_turn_id(tokenizer)}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        tokenizer.add_special_tokens({"pad_token": _choose_pad(tokenizer)})
    tokenizer.padding_side = "left"
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template, the same for the same texts.

    Every text can be written with it. `len(tokenizer)` is below `vocab_size` where the texts have too few merges.
    There is no BOS; EOS ends every turn.
    """
    specials = [PAD, EOS, *(f"<|{role}|>" for role in ROLES)]
    if vocab_size < 256 + len(specials):
        raise ModelError(
            f"vocab_size={vocab_size} is too small for 256 bytes and {len(specials)} special tokens",
            f"Take at least {256 + len(specials)}.",
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = TRAINED_TEMPLATE
    return tokenizer


def eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The EOS token, without which nothing can be trained here.

    Raises:
        ModelError: there is none.
    """
    token = tokenizer.eos_token_id
    if not isinstance(token, int):
        raise ModelError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no EOS token, so no response could end",
            "Use a causal language model's tokenizer, or set eos_token in its tokenizer_config.json.",
        )
    return token


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The pad token; `load_tokenizer` and `train_tokenizer` have made sure that there is one.

    Raises:
        ModelError: there is none.
    """
    token = tokenizer.pad_token_id
    if not isinstance(token, int):
        raise ModelError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no pad token",
            "Name an unused token of its vocabulary as pad_token in its tokenizer_config.json.",
        )
    return token


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of all that decides how text becomes tokens, and of the special tokens; not of the chat template.

    The same before and after saving; batching state (truncation, padding) is left out.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if (
        backend is None
    ):  # a tokenizer in Python, such as a repository's own code: its vocabulary stands for it
        rules: dict[str, Any] = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    else:
        rules = json.loads(backend.to_str())
        rules = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    identity = {
        "rules": rules,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "ids": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
    }
    return _sha256(json.dumps(identity, sort_keys=True))


def chat_template_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 (hex) of the chat template's text, None where there is none."""
    template = tokenizer.chat_template
    if template is None:
        return None
    return _sha256(template if isinstance(template, str) else json.dumps(template, sort_keys=True))


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, generation_config_eos: int | Sequence[int] | None = None
) -> tuple[int, ...]:
    """The tokens at which generation stops: EOS first, then the chat template's end of turn, then the model's own.

    The pad token is never one of them (some generation configs list it): a head that skips padding would score
    a response that ends with it one token early.
    """
    own = [generation_config_eos] if isinstance(generation_config_eos, int) else generation_config_eos or []
    ordered = dict.fromkeys([eos_id(tokenizer), end_of_turn_id(tokenizer), *own])
    return tuple(token for token in ordered if token is not None and token != tokenizer.pad_token_id)


def _from_pretrained(
    path: str | Path, revision: str | None, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    name = str(path)
    is_local = isinstance(path, Path) or name.startswith(("/", ".", "~")) or name.count("/") > 1
    local = Path(path).expanduser()
    if is_local and not local.is_dir():
        raise ModelError(
            f"{name}: there is no such folder", "Give a model's folder, or a hub id (owner/name)."
        )
    try:
        return AutoTokenizer.from_pretrained(
            str(local) if is_local else name, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{name}: the tokenizer cannot be loaded: {error}",
            "Check the name and revision; a folder needs tokenizer.json and tokenizer_config.json.",
        ) from error


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{file}: the chat template cannot be read: {error}", "Give a Jinja file in UTF-8."
        ) from error


def _choose_pad(tokenizer: PreTrainedTokenizerBase) -> str:
    """An existing special token that no sequence contains, else `<|pad|>`, which the caller then adds.

    Others than those named here have a meaning that is not ours to guess, however unused they look.
    """
    taken = (eos_id(tokenizer), tokenizer.bos_token_id, end_of_turn_id(tokenizer))
    template = str(tokenizer.chat_template or "")
    free = [
        token.content
        for token_id, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and token_id not in taken and token.content not in template
    ]
    named = [
        t
        for t in free
        if "pad" in t.lower() and not any(m in t for m in ("image", "vision", "video", "audio"))
    ]
    reserved = [t for t in free if "reserved" in t.lower() or "unused" in t.lower()]
    unknown = [t for t in free if t == tokenizer.unk_token]
    return next(iter([*named, *reserved, *unknown]), PAD)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
