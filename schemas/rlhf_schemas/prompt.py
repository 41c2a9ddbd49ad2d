"""Prompts that PPO answers."""

from pydantic import Field

from rlhf_schemas.base import Metadata, Record
from rlhf_schemas.turns import Prompt


class PromptRecord(Record):
    """A prompt without an answer."""

    prompt: Prompt
    """What is asked: text, or messages that end with the user's."""
    metadata: Metadata = Field(default_factory=dict)
    """Anything else; carried along, never trained on."""
