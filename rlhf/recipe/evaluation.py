"""What PPO measures on held-out prompts, which checkpoint it publishes, and when it stops or warns."""

from typing import Literal

from pydantic import Field

from rlhf.recipe.base import Section
from rlhf.recipe.rewards import RewardSource

Action = Literal["off", "warn", "stop"]


class EvaluationSection(Section):
    """Evaluation on `data.prompts.eval` at the start, every `ppo.eval_every_steps` steps and at the end, from a noise stream of its own."""

    samples_per_prompt: int = Field(default=4, ge=1)
    """Sampled responses per held-out prompt; one greedy response comes on top."""
    num_shown: int = Field(default=6, ge=0)
    """Held-out prompts whose answers go into `evaluations/step-N.jsonl` and `samples.json`."""
    gold: RewardSource | None = None
    """A second judge that PPO does not optimise: where its score falls while the proxy's rises, the proxy is over-optimised (Gao et al. 2022)."""
    best_of_n: int = Field(default=0, ge=0)
    """Responses per held-out prompt that the SFT model gives once, as the baseline: best of n at the policy's KL, log n - (n - 1) / n. 0: none."""
    select_best: str | None = None
    """Publish the checkpoint with the highest value of this metric, such as `eval/scores` or `eval/gold_scores`, the SFT model before the first step included; null: the last one."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations without a higher `select_best`."""
    kl_budget: float | None = Field(default=None, gt=0)
    """Stop when `eval/kl` (nats a response) exceeds this; `select_best` passes over what exceeds it."""


class WatchSection(Section):
    """Watchdogs. `warn` writes a line with the likely cause and the knob to turn; `stop` ends the stage with it, checkpoint kept."""

    negative_kl: Action = "warn"
    """Mean KL (k1) of a step below -`negative_kl_below`: the samples do not come from the policy that scored them."""
    negative_kl_below: float = Field(default=0.5, gt=0)
    """Nats a response."""
    kl: Action = "warn"
    """Mean KL of a step above `kl_above`."""
    kl_above: float = Field(default=50.0, gt=0)
    """Nats a response."""
    entropy: Action = "warn"
    """Mean entropy a token below `entropy_share` of the first step's: the policy repeats itself."""
    entropy_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the first step's entropy."""
    constant_score: Action = "warn"
    """All scores of a step are equal: there is nothing to learn from."""
    explained_variance: Action = "warn"
    """The critic's explained variance below 0 for `explained_variance_steps` steps in a row, critic warm-up apart."""
    explained_variance_steps: int = Field(default=20, ge=1)
    """Steps in a row."""
    missing_eos: Action = "warn"
    """The share of responses without EOS has risen by `missing_eos_rise` over the first step's."""
    missing_eos_rise: float = Field(default=0.3, gt=0, le=1)
    """Rise in the share."""
