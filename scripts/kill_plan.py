"""Which kills: a stage, a moment in it and a target for each, at random from a seed; and what all of them must cover."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Moment = Literal["loading", "training", "saving", "publishing"]
Target = Literal["stage", "group", "pipeline"]
MOMENTS: tuple[Moment, ...] = (
    "training",
    "saving",
    "training",
    "loading",
    "training",
    "saving",
    "training",
    "publishing",
    "training",
    "loading",
)
TARGETS: tuple[Target, ...] = ("stage", "group", "pipeline")
MAX_SAVES, MAX_PER_STAGE = 3, 5


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
        number: its place in the plan, from 1.
        stage: in which stage.
        moment: while models load, between two steps or in one, while a checkpoint is written, while it publishes.
        target: one process of the stage, its process group, or the pipeline that started it.
        progress: at which share of the stage's steps, in [0, 1).
        delay: how long after the event that the moment starts with, as a share of what usually passes, in [0, 1).
        tries: how often it missed its moment.
    """

    number: int
    stage: str
    moment: Moment
    target: Target
    progress: float
    delay: float
    tries: int = 0

    def __str__(self) -> str:
        return f"kill {self.number}: {self.target} of {self.stage} while {self.moment}"


def plan_kills(num_kills: int, stages: Sequence[str], seed: int) -> list[Kill]:
    """Share the kills out over stages, moments and targets, in the order in which one run meets them."""
    rng = random.Random(seed)
    kills: list[Kill] = []
    targets: list[Target] = []
    for number in range(num_kills):
        turn, place = divmod(number, len(stages))
        targets = targets or rng.sample(TARGETS, len(TARGETS))
        moment = MOMENTS[(turn + place) % len(MOMENTS)]
        kills.append(Kill(0, stages[place], moment, targets.pop(), rng.random(), rng.random()))
    return [replace(kill, number=place) for place, kill in enumerate(ordered(kills, stages), 1)]


def ordered(kills: Sequence[Kill], stages: Sequence[str]) -> list[Kill]:
    """The kills as one run meets them: by stage, then by progress, a stage's publishing last."""
    return sorted(
        kills, key=lambda kill: (stages.index(kill.stage), kill.moment == "publishing", kill.progress)
    )


def again(kill: Kill) -> Kill:
    """The same kill for another try: earlier in the stage and sooner after its event, since it came too late."""
    return replace(kill, progress=kill.progress * 0.8, delay=kill.delay * 0.5, tries=kill.tries + 1)


def uncovered(kills: Sequence[Kill], num_within_save: int, stages: Sequence[str]) -> list[str]:
    """What the kills that took place do not cover, in words.

    With 30: at least 5 in each stage, 3 within a save, and one of each target. With fewer, fewer; with 3 one of each.
    """
    stage_counts = Counter(kill.stage for kill in kills)
    target_counts = Counter(kill.target for kill in kills)
    saves = min(MAX_SAVES, (len(kills) + 7) // 10)
    per_stage = min(MAX_PER_STAGE, len(kills) // len(stages))
    wanted = [(f"in the {stage} stage", stage_counts[stage], per_stage) for stage in stages]
    wanted += [
        (f"of the {target}", target_counts[target], min(1, len(kills) // len(TARGETS))) for target in TARGETS
    ]
    wanted.append(("within a save", num_within_save, saves))
    return [f"{count} kills {what}, {least} are wanted" for what, count, least in wanted if count < least]
