"""Text as tokens behind other tokens: pieces of a sequence that are tokenised apart and decode as one text.

Encoding the joined text and cutting it would be wrong: a token may span the cut, and a policy never gets that one.
"""

from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError


def tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text, with no special token around it; special tokens written in the text are taken as such."""
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))


def tokens_after(tokenizer: PreTrainedTokenizerBase, special: int, text: str) -> list[int]:
    """The tokens of a text right behind a special token, which may take white space with it (Phi-3's do)."""
    ids = tokens(tokenizer, str(tokenizer.convert_ids_to_tokens(special)) + text)
    return ids[ids.index(special) + 1 :]


def continuation(tokenizer: PreTrainedTokenizerBase, before: list[int], text: str) -> list[int]:
    """The tokens of `text` as a continuation of `before`: appended, they add exactly `text` to what decodes.

    Some tokenizers (Llama 2's, SentencePiece's) begin every text with a space of their own, so that encoding the
    piece alone would train on a space that is not in the data.

    Raises:
        DataError: no way of writing it decodes to the same text, such as a character outside the vocabulary.
    """
    given = _decoded(tokenizer, before)
    for ids in _candidates(tokenizer, text):
        whole = _decoded(tokenizer, before + ids)
        if whole.startswith(given) and _same_text(tokenizer, whole[len(given) :], text):
            return ids
    plain = _decoded(tokenizer, tokens(tokenizer, text))
    raise DataError(
        f"the tokenizer cannot write this text exactly: {text[:80]!r} becomes {plain[:80]!r}",
        "Remove the characters that its vocabulary lacks, or use a byte-level tokenizer.",
    )


def _candidates(tokenizer: PreTrainedTokenizerBase, text: str) -> Iterator[list[int]]:
    yield tokens(tokenizer, text)
    for anchor in ("\n", ".", "a"):
        head = tokens(tokenizer, anchor)
        ids = tokens(tokenizer, anchor + text)
        if ids[: len(head)] == head:
            yield ids[len(head) :]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _same_text(tokenizer: PreTrainedTokenizerBase, written: str, text: str) -> bool:
    """Equal up to the tokenizer's own normaliser, such as Qwen's Unicode NFC."""
    if written == text:
        return True
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer is not None and normalizer.normalize_str(written) == normalizer.normalize_str(text)
