"""Prompts, completions and conversations: text or messages, and which turn may follow which."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Tag
from pydantic_core import PydanticCustomError

from rlhf_schemas.base import Message, check_text


def _shape(value: object) -> str | None:
    if isinstance(value, str):
        return "as_text"
    return "as_messages" if isinstance(value, list) else None


Turns = Annotated[
    Annotated[str, Tag("as_text")] | Annotated[list[Message], Tag("as_messages")],
    Discriminator(
        _shape,
        custom_error_type="wrong_type",
        custom_error_message="should be text or a list of messages",
    ),
]
"""Text, or messages. The tags occur in the location of an error and nowhere else."""


def check_roles(
    messages: Sequence[Message], first: Literal["user", "assistant"], last: Literal["user", "assistant"]
) -> None:
    """Refuse messages that do not alternate from `first` to `last`; where the user starts, one system message may precede."""
    if not messages:
        raise PydanticCustomError("blank", "has no messages")
    start = 1 if first == "user" and messages[0].role == "system" else 0
    due = first
    for index in range(start, len(messages)):
        if messages[index].role != due:
            raise PydanticCustomError(
                "roles",
                "message [{index}] is the {role}'s, where the {due}'s turn is due",
                {"index": index, "role": messages[index].role, "due": due},
            )
        due = "assistant" if due == "user" else "user"
    if start == len(messages) or messages[-1].role != last:
        raise PydanticCustomError(
            "roles",
            "ends with the {role}'s turn, not the {last}'s",
            {"role": messages[-1].role, "last": last},
        )


def check_prompt(turns: str | list[Message]) -> str | list[Message]:
    """A prompt is not blank; its messages end with the user's turn."""
    if isinstance(turns, str):
        return check_text(turns)
    check_roles(turns, "user", "user")
    return turns


def check_completion(turns: str | list[Message]) -> str | list[Message]:
    """A completion is not blank; its messages start and end with the assistant's turn."""
    if isinstance(turns, str):
        return check_text(turns)
    check_roles(turns, "assistant", "assistant")
    return turns


def check_answer(turns: str | list[Message]) -> str | list[Message]:
    """Chosen and rejected are completions after a prompt, or whole conversations where the prompt is inside them."""
    if isinstance(turns, str):
        return check_text(turns)
    check_roles(turns, "assistant" if turns and turns[0].role == "assistant" else "user", "assistant")
    return turns


def check_conversation(messages: list[Message]) -> list[Message]:
    """A conversation starts with the user (or a system message before) and ends with the assistant."""
    check_roles(messages, "user", "assistant")
    return messages


Prompt = Annotated[Turns, AfterValidator(check_prompt)]
Completion = Annotated[Turns, AfterValidator(check_completion)]
Answer = Annotated[Turns, AfterValidator(check_answer)]
Conversation = Annotated[list[Message], AfterValidator(check_conversation)]
