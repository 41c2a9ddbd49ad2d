"""The runs of the study of KL control: twelve with the adaptive coefficient, nine with a fixed one; all else is equal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SEEDS = (0, 1, 2)
BATCH = 32
SETTLED_COEF = {3.0: 0.6, 8.0: 0.13}
"""Target KL, nats a response -> about the coefficient at which a trial run stayed there."""
ADAPTIVE_STEPS = {0.5: 220, 2.0: 200}
"""How wrong the first coefficient is -> steps; from too small a one KL shoots past the target and comes back slowly."""
FIXED_COEFS = (0.1, 0.3, 0.9)
FIXED_STEPS = 90

COMMON = {
    "ppo.global_batch_size": BATCH,
    "ppo.per_device_batch_size": BATCH // 2,
    "ppo.per_device_rollout_batch_size": BATCH,
    "ppo.num_minibatches": 2,
    "ppo.num_epochs": 2,
    "ppo.learning_rate": 2e-4,
    "ppo.lr_floor_fraction": 1,
    "ppo.critic_warmup_steps": 5,
    "ppo.eval_every_steps": 1000,
    "ppo.save_every_steps": 1000,
}
"""A constant learning rate, and small steps: one update of the coefficient each."""
LR_WARMUP_STEPS = 10


@dataclass(frozen=True)
class Run:
    """One PPO run.

    Attributes:
        coef: the KL coefficient; the first one where it adapts.
        target: nats a response; None: the coefficient is fixed.
        steps: updates of the coefficient, one a step.
    """

    coef: float
    target: float | None
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Its run's and its artefact's name."""
        kind = "fixed" if self.target is None else f"target-{self.target:g}"
        return f"kl-{kind}-from-{self.coef:g}-seed-{self.seed}".replace(".", "p")

    @property
    def artefact(self) -> str:
        """The name under which it publishes; the latest version counts."""
        return f"{self.name}-ppo"

    def settings(self) -> dict[str, object]:
        """What differs from the recipe, besides the names."""
        own: dict[str, object] = {
            "ppo.num_steps": self.steps,
            "ppo.warmup_fraction": LR_WARMUP_STEPS / self.steps,
            "ppo.seed": self.seed,
            "ppo.kl.coef": self.coef,
        }
        if self.target is not None:
            own |= {"ppo.kl.target": self.target, "ppo.kl.horizon": 20 * BATCH}
        return COMMON | own


def planned() -> list[Run]:
    """All runs, one seed after the other."""
    return [
        *(
            Run(round(coef * factor, 6), target, seed, steps)
            for seed in SEEDS
            for factor, steps in ADAPTIVE_STEPS.items()
            for target, coef in SETTLED_COEF.items()
        ),
        *(Run(coef, None, seed, FIXED_STEPS) for seed in SEEDS for coef in FIXED_COEFS),
    ]


def command(run: Run, recipe: Path, overrides: Sequence[str], *, sft: str, reward: str) -> list[str]:
    """The `rlhf run` that makes it, on the recipe's own SFT and reward model.

    Args:
        overrides: further KEY=VALUE, before the study's own.
        sft, reward: the names that these models have in the registry.
    """
    own = {"name": run.name, "sft.publish_as": sft, "reward.publish_as": reward} | run.settings()
    settings = [*overrides, *(f"{key}={value}" for key, value in own.items())]
    return ["rlhf", "run", str(recipe), "--stage", "ppo", *(part for s in settings for part in ("--set", s))]
