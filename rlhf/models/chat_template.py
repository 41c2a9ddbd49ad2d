"""What a chat template does to a conversation: which spans a model writes, where a turn ends, whether it can be trusted.

Works on text alone; `sequences` turns the spans into tokens. Any template is taken that only ever appends:
what it rendered for a conversation must be the beginning of what it renders for a longer one. That is proved
for each conversation, since a policy's prompt is such a beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhf.errors import DataError, ModelError

OTHER_TEMPLATE = "Give a template that only appends: model.chat_template: FILE in the recipe."


class Turn(Protocol):
    """One message of a conversation; rlhf_schemas.Message is one."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


@dataclass(frozen=True)
class PlainTurn:
    """A turn made here, from text or for a probe."""

    role: str
    content: str


@dataclass(frozen=True)
class Span:
    """A piece of the rendered text, and whether the model writes it (an assistant turn up to its end-of-turn token)."""

    text: str
    by_model: bool


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template ends an assistant turn, or None (no template, or it ends turns with text).

    Found by rendering a probe: the first added token after the assistant's content, white-space tokens aside.
    """
    template = tokenizer.chat_template
    return None if template is None else _probed_end_of_turn(tokenizer, str(template))


def conversation_spans(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, generation_prompt: bool
) -> list[Span]:
    """The rendered conversation, cut into what the model writes and what it is given.

    The text ends with the generation prompt, or else right after the last assistant turn's end-of-turn token
    (what a template puts behind it, such as ChatML's newline, opens the next turn).

    Raises:
        ModelError: no template, no end-of-turn token, or the template rewrites what it rendered before.
        DataError: the template refuses the conversation, or alters an assistant turn's content.
    """
    end_of_turn = _end_of_turn_text(tokenizer)
    spans: list[Span] = []
    text = ""
    for index, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        opened = _extended(text, render(tokenizer, turns[:index], generation_prompt=True))
        closed = _extended(opened, render(tokenizer, turns[: index + 1], generation_prompt=False))
        written = _written_turn(closed[len(opened) :], turn.content, end_of_turn)
        spans += [Span(opened[len(text) :], False), Span(written, True)]
        text = opened + written
    if generation_prompt:
        final = _extended(text, render(tokenizer, turns, generation_prompt=True))
        spans.append(Span(final[len(text) :], False))
    return spans


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, generation_prompt: bool) -> str:
    """The template's text for these turns.

    Raises:
        DataError: there is no turn, or the template itself refuses them (roles out of order, no system role, …).
    """
    if not turns:
        raise DataError(
            "a conversation begins with an assistant turn, or is empty",
            "Put the user's (or system's) turn in front of it.",
        )
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation_prompt
        )
    except TemplateError as error:
        roles = ", ".join(turn.role for turn in turns)
        raise DataError(
            f"the chat template refuses a conversation with the roles {roles}: {error}",
            "Change the data's turns, or give a template that takes them: model.chat_template: FILE in the recipe.",
        ) from error
    except ValueError as error:  # several named templates, none of them the default
        raise ModelError(f"the tokenizer's chat template is not usable: {error}", OTHER_TEMPLATE) from error
    assert isinstance(text, str)
    return text


def check_chat_template(tokenizer: PreTrainedTokenizerBase, *, multi_turn: bool = False) -> None:
    """Refuse a template that cannot be trained on, before any data is read.

    `multi_turn=True` also probes a second exchange: templates of reasoning models drop the thinking of earlier turns,
    which is right for single exchanges and refused where a record has two.

    Raises:
        ModelError: no template; it fails on the probe, ends no turn with a special token, has no generation prompt,
            rewrites earlier turns, or alters content.
    """
    probe = [PlainTurn("user", "First question?"), PlainTurn("assistant", "First answer.")]
    if multi_turn:
        probe += [PlainTurn("user", "Second question?"), PlainTurn("assistant", "Second answer.")]
    try:
        spans = conversation_spans(tokenizer, probe, generation_prompt=False)
    except DataError as error:
        raise ModelError(
            f"the chat template fails on a plain probe: {error.message}", OTHER_TEMPLATE
        ) from error
    header = spans[1].text.partition("First answer.")[0]
    if "assistant" in header.lower() or any(
        tokenizer.added_tokens_decoder[token].special for token in _added_tokens(tokenizer, header)
    ):
        raise ModelError(
            f"the chat template has no generation prompt: the model would have to write {header!r} itself",
            "Let it write the assistant's header where add_generation_prompt is true "
            "(model.chat_template: FILE in the recipe).",
        )


@lru_cache(maxsize=16)
def _probed_end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> int | None:
    """Cached by the template's text too: it may be replaced on a live tokenizer."""
    answer = "An answer."
    try:
        text = render(
            tokenizer,
            [PlainTurn("user", "A question?"), PlainTurn("assistant", answer)],
            generation_prompt=False,
        )
    except (DataError, ModelError):
        return None  # who needs the template renders it again, and then gets the reason
    return next(iter(_added_tokens(tokenizer, text.rpartition(answer)[2])), None)


def _added_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return [token for token in tokens if token in added and not added[token].content.isspace()]


def _end_of_turn_text(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        raise ModelError(
            "the data are conversations (or data.chat is true), and the tokenizer has no chat template",
            "Give one (model.chat_template: FILE in the recipe), or use text data with data.chat: false.",
        )
    token = end_of_turn_id(tokenizer)
    if token is None:
        probe = [PlainTurn("user", "A question?"), PlainTurn("assistant", "An answer.")]
        text = render(tokenizer, probe, generation_prompt=False)
        raise ModelError(
            f"the chat template ends an assistant turn with no special token, so generation could not stop: {text!r}",
            "Let it write {{ eos_token }} after each assistant turn (model.chat_template: FILE in the recipe).",
        )
    return str(tokenizer.added_tokens_decoder[token].content)


def _extended(before: str, after: str) -> str:
    if not after.startswith(before):
        same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
        raise ModelError(
            "the chat template rewrites what it rendered before: with one more turn, "
            f"{before[same : same + 60]!r} became {after[same : same + 60]!r}",
            OTHER_TEMPLATE,
        )
    return after


def _written_turn(rendered: str, content: str, end_of_turn: str) -> str:
    """The part of an assistant turn that the model writes: up to and with its end-of-turn token."""
    if end_of_turn in content:
        raise DataError(
            f"an assistant turn contains the end-of-turn token {end_of_turn!r} itself: {_excerpt(content)}",
            "Remove it from the data: the chat template adds it.",
        )
    body, found, _ = rendered.partition(end_of_turn)
    if not found:
        raise ModelError(
            f"the chat template does not end this assistant turn with {end_of_turn!r}: {_excerpt(rendered)}",
            OTHER_TEMPLATE,
        )
    if content not in body:
        raise DataError(
            f"the chat template alters an assistant turn: {_excerpt(content)} became {_excerpt(body)}",
            "Remove white space around the content in the data, or give a template that keeps content as it is.",
        )
    return body + found


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:50]} … {text[-25:]}")
