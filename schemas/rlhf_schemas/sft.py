"""Demonstrations for supervised fine-tuning."""

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from rlhf_schemas.base import Metadata, Record, Text
from rlhf_schemas.turns import Completion, Conversation, Prompt

_SHAPES = (("prompt", "completion"), ("messages",), ("text",))


class SFTRecord(Record):
    """A demonstration in exactly one shape: `prompt` and `completion`, or `messages`, or plain `text`."""

    prompt: Prompt | None = None
    """What is asked: text, or messages that end with the user's."""
    completion: Completion | None = None
    """The answer to learn: text, or messages from the assistant's to the assistant's."""
    messages: Conversation | None = None
    """A whole conversation; every assistant turn is learnt."""
    text: Text | None = None
    """Plain text for language modelling; all of it is learnt."""
    weight: float | None = Field(None, gt=0)
    """The row's weight in the loss; 1 where absent."""
    metadata: Metadata = Field(default_factory=dict)
    """Anything else; carried along, never trained on."""

    @model_validator(mode="after")
    def _one_shape(self) -> "SFTRecord":
        given = tuple(name for shape in _SHAPES for name in shape if getattr(self, name) is not None)
        if given not in _SHAPES:
            raise PydanticCustomError(
                "shape",
                "has {given}: a record is prompt and completion, or messages, or text",
                {
                    "given": " and ".join(given) or "none of its fields",
                    "field": given[0] if given else "prompt",
                },
            )
        if self.prompt is not None and isinstance(self.prompt, str) != isinstance(self.completion, str):
            raise PydanticCustomError(
                "mixed",
                "is not of the prompt's form: both are text, or both are messages",
                {"field": "completion"},
            )
        return self
