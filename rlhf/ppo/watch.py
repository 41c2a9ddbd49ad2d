"""Watchdogs: numbers by which RLHF fails without an error, each with a likely cause and the knob to turn.

They look at a step's metrics alone, which are the same on every rank. The alarms that always stop (a ratio that is not
1 before the first update, a number that is not finite) are in `rlhf.ppo.update`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.errors import CheckpointError, TrainingError
from rlhf.recipe.evaluation import Action, WatchSection

_EQUAL_SCORES = 1e-6
"""A standard deviation below this share of the mean is float32 rounding."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Advice:
    cause: str
    knob: str


_ADVICE = {
    "negative_kl": _Advice(
        "a KL is never below 0, save by chance in a small batch: the sampled tokens are not what the policy would sample "
        "(another temperature, a cut support, wrong positions)",
        "Look at val/first_log_ratio_abs; raise ppo.global_batch_size, or ppo.watch.negative_kl_below if it is chance.",
    ),
    "kl": _Advice(
        "the policy has left the reference, where the reward model was never trained; its scores mean little there",
        "Raise ppo.kl.coef or set ppo.kl.target; lower ppo.learning_rate.",
    ),
    "entropy": _Advice(
        "the policy has narrowed to a few answers and explores no more",
        "Lower ppo.learning_rate, raise ppo.kl.coef or set ppo.entropy_coef; read the answers with rlhf rollouts.",
    ),
    "constant_score": _Advice(
        "all answers are alike, or the source of scores does not read them (a clip that all exceed, a function that "
        "returns a constant)",
        "Read the answers with rlhf rollouts; look at ppo.shaping.clip and at ppo.rewards.",
    ),
    "explained_variance": _Advice(
        "the critic is worse than a constant, so its advantages are noise",
        "Set ppo.critic_warmup_steps, try another ppo.critic_learning_rate, or normalise scores with ppo.shaping.normalize.",
    ),
    "missing_eos": _Advice(
        "the policy has learnt to go on until it is cut",
        "Set ppo.shaping.missing_eos (subtract or replace) or ppo.shaping.length_penalty; raise ppo.sampling.max_new_tokens "
        "if answers need the room.",
    ),
}


class Watch:
    """Checks each step's metrics; its state belongs into the checkpoint, so that a resumed run alarms as the whole one.

    Args:
        section: the recipe's `ppo.watch`.
        critic_warmup_steps: first steps, in which the explained variance is not looked at.
        log: where a warning goes; a no-op on all ranks but one.
        newest_checkpoint: names what is kept when an alarm stops the stage.
    """

    def __init__(
        self,
        section: WatchSection,
        *,
        critic_warmup_steps: int,
        log: Callable[[str], None] = print,
        newest_checkpoint: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.section = section
        self.critic_warmup_steps = critic_warmup_steps
        self.log = log
        self.newest_checkpoint = newest_checkpoint
        self._first: dict[str, float] | None = None
        self._critic_streak = 0
        self._on: set[str] = set()

    def check(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Look at a finished step.

        Args:
            step: counts from 1.
            metrics: of the step: `objective/kl`, `objective/scores` and `objective/shaped_scores` with their `_std`,
                `policy/entropy_avg`, `val/explained_variance`, `val/share_without_eos`.

        Returns:
            `watch/<name>`: 1 while the alarm is on, else 0; those that are off are left out.

        Raises:
            TrainingError: an alarm whose action is `stop`.
        """
        if self._first is None:
            names = ("policy/entropy_avg", "val/share_without_eos")
            self._first = {name: float(metrics[name]) for name in names}
        seen = self._seen(step, metrics)
        shown: dict[str, float] = {}
        to_stop: list[str] = []
        for name, what in seen.items():
            action: Action = getattr(self.section, name)
            if action == "off":
                continue
            shown[f"watch/{name}"] = float(what is not None)
            if what is not None and action == "stop":
                to_stop.append(name)
            elif what is not None and name not in self._on:
                advice = _ADVICE[name]
                self.log(f"warning: step {step}: watch {name}: {what}. Likely: {advice.cause}. {advice.knob}")
        self._on = {name for name, what in seen.items() if what is not None}
        if to_stop:
            raise self._error(step, {name: str(seen[name]) for name in to_stop})
        return shown

    def state_dict(self) -> dict[str, Any]:
        """The first step's numbers, the critic's streak, and which alarms are on."""
        return {"first": self._first, "critic_streak": self._critic_streak, "on": sorted(self._on)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: a missing piece.
        """
        missing = {"first", "critic_streak", "on"} - set(state)
        if missing:
            raise CheckpointError(
                f"the checkpoint's watchdog state lacks {sorted(missing)}",
                "It was written by another version: go on with that one, or start anew with --fresh.",
            )
        self._first = None if state["first"] is None else dict(state["first"])
        self._critic_streak = int(state["critic_streak"])
        self._on = set(state["on"])

    def _seen(self, step: int, metrics: Mapping[str, float]) -> dict[str, str | None]:
        """Alarm -> what was seen, None where all is well."""
        section, first = self.section, self._first
        assert first is not None
        kl, entropy = metrics["objective/kl"], metrics["policy/entropy_avg"]
        missing, first_missing = metrics["val/share_without_eos"], first["val/share_without_eos"]
        least_entropy = section.entropy_share * first["policy/entropy_avg"]
        seen: dict[str, tuple[bool, str]] = {
            "negative_kl": (
                kl < -section.negative_kl_below,
                f"the mean KL is {kl:.3g} nats a response, below -{section.negative_kl_below:g}",
            ),
            "kl": (
                kl > section.kl_above,
                f"the mean KL is {kl:.3g} nats a response, above {section.kl_above:g}",
            ),
            "entropy": (
                entropy < least_entropy,
                f"the mean entropy is {entropy:.3g} nats a token, the first step's {first['policy/entropy_avg']:.3g}",
            ),
            "missing_eos": (
                missing - first_missing >= section.missing_eos_rise - _ROUNDING,
                f"{missing:.0%} of the responses do not end, {first_missing:.0%} did not in the first step",
            ),
        }
        found = {name: text if on else None for name, (on, text) in seen.items()}
        return found | {
            "constant_score": _constant(metrics),
            "explained_variance": self._critic(step, metrics["val/explained_variance"]),
        }

    def _critic(self, step: int, explained_variance: float) -> str | None:
        below = explained_variance < 0 and step > self.critic_warmup_steps
        self._critic_streak = self._critic_streak + 1 if below else 0
        if self._critic_streak < self.section.explained_variance_steps:
            return None
        return (
            f"the critic's explained variance is {explained_variance:.3g}, below 0 "
            f"in the last {self._critic_streak} steps"
        )

    def _error(self, step: int, seen: Mapping[str, str]) -> TrainingError:
        told = "; ".join(
            f"watch {name}: {what}. Likely: {_ADVICE[name].cause}" for name, what in seen.items()
        )
        kept = self.newest_checkpoint()
        knobs = " ".join(_ADVICE[name].knob for name in seen)
        switches = " and ".join(f"ppo.watch.{name}: warn" for name in seen)
        place = f"The newest checkpoint is kept: {kept}" if kept is not None else "There is no checkpoint yet"
        return TrainingError(
            f"step {step}: {told}", f"{knobs} To go on regardless: {switches}, and --adopt-changes. {place}."
        )


def _constant(metrics: Mapping[str, float]) -> str | None:
    """Scores that are all equal as they come, or only once they are shaped."""
    for name, what in (("scores", "score"), ("shaped_scores", "shaped score")):
        mean, std = metrics[f"objective/{name}"], metrics[f"objective/{name}_std"]
        if std <= _EQUAL_SCORES * abs(mean):
            return f"every response has the {what} {mean:.6g}"
    return None
