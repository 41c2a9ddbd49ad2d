"""Where PPO's scores come from: reward models, Python functions, HTTP services; how they become one score; how that is shaped."""

from typing import Annotated, Literal

from pydantic import Field

from rlhf.recipe.base import Section

OWN_MODEL = "recipe"
"""`model: recipe`: the reward model that this recipe's reward stage publishes."""
SINGLE = "reward_model"
"""What the scores of the one reward model are called where the recipe has no list."""


class RewardSource(Section):
    """One source of scores: give exactly one of `model`, `function` and `url`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]
    """What its scores are called in metrics (`objective/scores/<name>`) and in rollout records; each source has its own."""
    model: str | None = None
    """A reward model: `recipe` (this recipe's own), `registry:NAME@VERSION`, a local folder or a hub id; one label. One with another tokenizer is given the text."""
    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """A Python function `package.module:function`, called with lists `prompts`, `responses`, `metadata`; returns one finite number a response: see docs/rewards.md."""
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """An HTTP endpoint that gets JSON by POST: see docs/rewards.md."""
    weight: float = 1.0
    """Factor of the source's score, after `normalize`, where scores are summed or averaged; `combine: min` takes none."""
    normalize: bool = False
    """Subtract the mean and divide by the standard deviation that the reward model published for the SFT model's samples, before scores are combined."""
    batch_size: int = Field(default=32, ge=1)
    """Responses in one HTTP request."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest wait for one HTTP reply."""
    retries: int = Field(default=5, ge=0)
    """Further tries of an HTTP request that failed or timed out, each after twice the wait; then the stage stops, and resumes from its checkpoint."""
    backoff_seconds: float = Field(default=1.0, ge=0)
    """Wait before the first further try."""


class ShapingSection(Section):
    """What happens to a score before the KL penalty, in this order: clip, normalise, missing-EOS penalty, length penalty."""

    clip: float | None = Field(default=None, gt=0)
    """Clip scores to [-clip, clip]."""
    normalize: Literal["none", "reference", "batch", "running"] = "none"
    """`reference`: by the mean and standard deviation that the reward model published for the SFT model's samples; `batch`: by this step's, `running`: by those of all steps so far, both over responses that ended."""
    missing_eos: Literal["none", "subtract", "replace"] = "none"
    """What a response that did not end in time gets: nothing, its score minus the penalty, or minus the penalty in its place."""
    missing_eos_penalty: float = Field(default=1.0, ge=0)
    """The penalty, in units of the shaped score."""
    length_penalty: float = Field(default=0.0, ge=0)
    """Subtracted for each response token past `length_free_tokens`, in units of the shaped score; against answers that grow without getting better."""
    length_free_tokens: int = Field(default=0, ge=0)
    """Response tokens that cost nothing."""
