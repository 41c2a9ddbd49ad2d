"""The stages' names, their order, and which splits each reads."""

from typing import Literal

Stage = Literal["sft", "reward", "ppo"]
STAGES: tuple[Stage, ...] = ("sft", "reward", "ppo")
SPLITS_OF: dict[str, str] = {"sft": "sft", "reward": "preference", "ppo": "prompts"}
"""Stage -> the key under `data`."""
