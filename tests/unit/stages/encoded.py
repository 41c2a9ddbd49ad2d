"""Splits in small files, for the tests of what the stages make of them."""

import json

from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe import DataSource
from rlhf.recipe.checks import ChecksSection
from rlhf.recipe.ppo import PPOSection
from rlhf.recipe.recipe import ReadSplit
from rlhf.recipe.training import RewardSection, SFTSection
from rlhf.stages.tokens.splits import Split

TOKENIZER = train_tokenizer(["the cat sat on the mat. is it good? it is fine."] * 3, 300)
PLAIN = {"learning_rate": 1e-3, "global_batch_size": 2, "per_device_batch_size": 2}
KEYS = {"sft": "sft.train", "preference": "preference.train", "prompt": "prompts.train"}


def read_of(folder, kind, rows, **source):
    """The rows as a split of the recipe."""
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ReadSplit(KEYS[kind], kind, DataSource(path=str(path), **source))


def split_of(folder, kind, rows, *, chat=False, quarantine=None, severity=None, **source):
    """The rows as the stages read them."""
    checks = ChecksSection(severity=severity or {})
    return Split(read_of(folder, kind, rows, **source), chat, checks, quarantine)


def sft_section(**changes):
    return SFTSection.model_validate(PLAIN | changes)


def reward_section(**changes):
    return RewardSection.model_validate(PLAIN | changes)


def ppo_section(**changes):
    return PPOSection.model_validate(
        PLAIN | {"num_steps": 1, "num_minibatches": 1, "sampling": {"max_new_tokens": 4}} | changes
    )


def dialogue(*contents, system=None):
    """Messages that alternate, the user's first."""
    turns = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return turns + [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
