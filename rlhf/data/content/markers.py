"""Traces of a prompt format: a dialogue's markers in plain text, and special tokens written out."""

import re

_HEADING = re.compile(r"^### ?(?:Instruction|Response|Human|Assistant|User|System):", re.MULTILINE)
_TURN = re.compile(r"\n\r?\n(?:Human|Assistant): ?")
_ASKS = re.compile(r"^(?:Human|User|USER): ?", re.MULTILINE)
_ANSWERS = re.compile(r"^(?:Assistant|ASSISTANT): ?", re.MULTILINE)
_SHOUTED_ASKS = re.compile(r"\bUSER: ")
_SHOUTED_ANSWERS = re.compile(r"\bASSISTANT:")

_TOKEN = re.compile(
    r"<\|(?:[A-Za-z]{1,20}(?:_[A-Za-z0-9]{1,20}){1,6}|endoftext|system|user|assistant|observation|end|pad)\|>"
    r"|<(?:start_of_turn|end_of_turn|bos|eos|pad|unk)>"
    r"|<\uff5c[^\uff5c\n]{1,40}\uff5c>"
    r"|\[/?INST\]"
    r"|<</?SYS>>"
    r"|\A\s{0,9}<s>"
    r"|</s>\s{0,9}<s>"
)
_LAST_TOKEN = "</s>"


def find_prompt_marker(text: str) -> str | None:
    """The first marker of an instruction format or a transcript.

    A lone `Human:` in prose is none: it must follow an empty line, or be answered by an assistant.
    """
    for pattern in (_HEADING, _TURN):
        if found := pattern.search(text):
            return found[0]
    for asks, answers in ((_ASKS, _ANSWERS), (_SHOUTED_ASKS, _SHOUTED_ANSWERS)):
        if (asked := asks.search(text)) and (answered := answers.search(text, asked.end())):
            return text[asked.start() : answered.end()]
    return None


def find_special_token(text: str) -> str | None:
    """The first special token of a chat model, such as `<|im_end|>`, `[INST]` or a `</s>` at the end.

    `<s>…</s>` inside a text is HTML's struck-out text.
    """
    if found := _TOKEN.search(text):
        return found[0].strip()
    if text.rstrip().endswith(_LAST_TOKEN) and "<s>" not in text:
        return _LAST_TOKEN
    return None
