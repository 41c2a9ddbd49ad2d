"""Conversations of other shapes to our messages: who speaks, what is said, where the prompt ends."""

from typing import Final

from rlhf.data.shapes.layout import MisshapenError, as_list, as_object

Turn = dict[str, object]
"""A message of ours: `role` and `content`."""

ROLES: Final[dict[str, str]] = {
    name: role
    for role, names in {
        "system": ("system", "sys", "developer", "system_prompt"),
        "user": ("user", "human", "prompter", "usr", "client", "customer", "question", "instruction"),
        "assistant": (
            *(
                "assistant",
                "gpt",
                "chatgpt",
                "gpt4",
                "gpt-4",
                "gpt-3.5-turbo",
                "bing",
                "bard",
                "bot",
                "chatbot",
            ),
            *("model", "ai", "llm", "claude", "gemini", "answer", "response", "output"),
        ),
        "tool": (
            *(
                "tool",
                "tools",
                "function",
                "function_call",
                "function-call",
                "function_response",
                "function-response",
            ),
            *("tool_call", "tool_response", "observation", "ipython"),
        ),
    }.items()
    for name in names
}
"""Name of a speaker, in lower case -> role; `tool` for those that we refuse."""
SPEAKER_KEYS = ("role", "from", "speaker")
"""Keys that name the speaker."""
CONTENT_KEYS = ("content", "value", "text")
"""Keys that hold what is said."""
_CALL_KEYS = ("tool_calls", "function_call", "tool_call_id")
_EVERY_TURN = "Leave such conversations out: every assistant turn of a demonstration is learnt."


def read_turns(value: object, field: str, *, learnt: bool = False) -> list[Turn]:
    """Messages with our roles; other keys of a turn, such as ids, are passed over.

    Args:
        value: the conversation; one turn alone is a list of one.
        field: its name in the shape, for faults.
        learnt: every assistant turn will be learnt, so that a `weight` of 0 is a fault.

    Raises:
        MisshapenError: for unknown speakers, tool calls, and what is no text.
    """
    turn = as_object(value)
    turns = as_list(value) if turn is None else [turn]
    if turns is None:
        raise MisshapenError("wrong_type", "should be a list of turns", field=field, value=value)
    return [_read_turn(turn, f"{field}[{index}]", learnt) for index, turn in enumerate(turns)]


def _read_turn(value: object, path: str, learnt: bool) -> Turn:
    turn = as_object(value)
    if turn is None:
        raise MisshapenError("wrong_type", "should be a turn: an object", field=path, value=value)
    for key in _CALL_KEYS:
        if turn.get(key):
            raise MisshapenError(
                "tool_calls", "calls a tool or answers a call", field=f"{path}.{key}", value=turn[key]
            )
    speaker_key = _key_of(turn, SPEAKER_KEYS, path)
    role = _role(turn[speaker_key], f"{path}.{speaker_key}")
    weight = turn.get("weight")
    if learnt and role == "assistant" and weight is not None and weight not in (1, True):
        message = "has a weight other than 1, which single turns cannot have"
        raise MisshapenError(
            "out_of_range", message, field=f"{path}.weight", value=weight, remedy=_EVERY_TURN
        )
    content_key = _key_of(turn, CONTENT_KEYS, path)
    return {"role": role, "content": join_parts(turn[content_key], f"{path}.{content_key}")}


def _key_of(turn: dict[str, object], keys: tuple[str, ...], path: str) -> str:
    for key in keys:
        if turn.get(key) is not None:
            return key
    names = ", ".join(turn) or "no keys"
    raise MisshapenError("missing_field", f"is missing; the turn has {names}", field=f"{path}.{keys[0]}")


def _role(speaker: object, path: str) -> str:
    role = ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
    if role is None:
        raise MisshapenError("unknown_role", "is no known speaker", field=path, value=speaker)
    if role == "tool":
        raise MisshapenError("tool_calls", "is a turn of a tool", field=path, value=speaker)
    return role


def join_parts(content: object, path: str) -> object:
    """Text parts, `[{"type": "text", "text": "..."}]`, joined without anything between; other values as they are.

    Raises:
        MisshapenError: for a part that is no text, such as an image.
    """
    parts = as_list(content)
    if parts is None:
        return content
    texts: list[str] = []
    for index, part in enumerate(parts):
        fields = as_object(part) or {}
        text = part if isinstance(part, str) else fields.get("text")
        if fields.get("type", "text") != "text" or not isinstance(text, str):
            message = "is a part that is not text, such as an image: models here read text alone"
            raise MisshapenError("wrong_type", message, field=f"{path}[{index}]", value=part)
        texts.append(text)
    return "".join(texts)


def first_turn(value: object) -> Turn:
    """The first turn of a conversation, or the turn itself; empty where the value is neither."""
    turns = as_list(value)
    return as_object(value if turns is None else next(iter(turns), None)) or {}


def is_turns(value: object, keys: tuple[str, ...]) -> bool:
    """Whether the value is a conversation, or a turn, whose first turn has one of the keys."""
    return not first_turn(value).keys().isdisjoint(keys)


def prompt_of(turns: list[Turn]) -> list[Turn]:
    """The conversation up to the user's last turn; all of it, for the record's rules to refuse, where there is none."""
    last = next((index for index in reversed(range(len(turns))) if turns[index]["role"] == "user"), None)
    return turns if last is None else turns[: last + 1]


def pair_of(chosen: list[Turn], rejected: list[Turn]) -> dict[str, object]:
    """The record's fields of two conversations, with their common first turns as the prompt where these end with the user's.

    Otherwise the conversations are left whole: the record's rules then say what is wrong with them.
    """
    shorter = min(len(chosen), len(rejected))
    common = next((index for index in range(shorter) if chosen[index] != rejected[index]), shorter)
    if 0 < common < shorter and chosen[common - 1]["role"] == "user":
        return {"prompt": chosen[:common], "chosen": chosen[common:], "rejected": rejected[common:]}
    return {"chosen": chosen, "rejected": rejected}
