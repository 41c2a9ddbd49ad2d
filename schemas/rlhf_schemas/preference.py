"""Pairs for the reward model."""

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rlhf_schemas.base import Message, Metadata, Record
from rlhf_schemas.turns import Answer, Prompt


class PreferenceRecord(Record):
    """Two answers to one prompt, of which one is preferred.

    Without `prompt` the prompt lies inside both answers: as their common first messages, or somewhere in their text.
    """

    prompt: Prompt | None = None
    """What is asked: text, or messages that end with the user's; absent where both answers contain it."""
    chosen: Answer
    """The preferred answer."""
    rejected: Answer
    """The other answer."""
    margin: float | None = Field(None, ge=0)
    """How much better `chosen` is, in the annotators' unit."""
    weight: float | None = Field(None, gt=0)
    """The pair's weight in the loss; 1 where absent."""
    metadata: Metadata = Field(default_factory=dict)
    """Anything else; carried along, never trained on."""

    @field_validator("chosen", "rejected")
    @classmethod
    def _starts_in_turn(cls, answer: str | list[Message], info: ValidationInfo) -> str | list[Message]:
        if "prompt" not in info.data or isinstance(answer, str):
            return answer
        implicit = info.data["prompt"] is None
        if implicit == (answer[0].role == "assistant"):
            message = (
                "starts with the assistant's turn and there is no prompt"
                if implicit
                else "starts with the {role}'s turn, but the prompt is given beside it"
            )
            raise PydanticCustomError("roles", message, {"role": answer[0].role})
        return answer

    @model_validator(mode="after")
    def _comparable(self) -> "PreferenceRecord":
        if isinstance(self.chosen, str) != isinstance(self.rejected, str):
            raise PydanticCustomError(
                "mixed", "is not of chosen's form: both are text, or both are messages", {"field": "rejected"}
            )
        if self.prompt is not None and isinstance(self.prompt, str) != isinstance(self.chosen, str):
            raise PydanticCustomError(
                "mixed",
                "is not of the prompt's form: both are text, or both are messages",
                {"field": "chosen"},
            )
        if self.chosen == self.rejected:
            raise PydanticCustomError("equal_pair", "is equal to rejected", {"field": "chosen"})
        if self.prompt is None:
            self._check_common_prefix()
        return self

    def _check_common_prefix(self) -> None:
        if isinstance(self.chosen, str) or isinstance(self.rejected, str):
            return
        length = _common_length(self.chosen, self.rejected)
        if length == 0 or self.chosen[length - 1].role != "user":
            raise PydanticCustomError(
                "no_common_prompt",
                "shares {length} first messages with rejected, and these do not end with the user's turn",
                {"field": "chosen", "length": length},
            )

    def explicit(self) -> "PreferenceRecord":
        """The same pair with its prompt taken out of the answers' messages.

        A pair with a prompt, and a pair of texts (whose prompt has no marked end), are returned as they are.
        """
        if self.prompt is not None or isinstance(self.chosen, str) or isinstance(self.rejected, str):
            return self
        length = _common_length(self.chosen, self.rejected)
        return self.model_copy(
            update={
                "prompt": self.chosen[:length],
                "chosen": self.chosen[length:],
                "rejected": self.rejected[length:],
            }
        )


def _common_length(one: list[Message], other: list[Message]) -> int:
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)
