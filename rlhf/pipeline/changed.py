"""What differs between two inputs of a stage; and unfinished work that the recipe no longer describes.

Such work is neither gone on from with other settings nor set aside without being asked: a run refuses, shows the
differences, and names the ways on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.errors import UsageError
from rlhf.pipeline.adoptable import obstacle
from rlhf.recipe import Stage
from rlhf.stages.inputs import ModelInput, StageInputs

_OTHER_MODEL = "the steps so far were made with the old one"
_OTHER_DATA = "the steps so far were made from the old records"


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
        text: what, with the old and the new value.
        obstacle: why a checkpoint of the old inputs cannot go on with the new value; None where it can.
    """

    text: str
    obstacle: str | None = None

    @property
    def adoptable(self) -> bool:
        """Whether it can."""
        return self.obstacle is None


@dataclass(frozen=True)
class Changed:
    """Unfinished work that was begun with other inputs than the recipe's now.

    Attributes:
        stage: the stage.
        step: its newest checkpoint's.
        differences: from the inputs that it was begun with.
    """

    stage: Stage
    step: int
    differences: tuple[Difference, ...]

    @property
    def adoptable(self) -> bool:
        """Whether it can go on with the new inputs."""
        return all(difference.adoptable for difference in self.differences)

    def refusal(self, *, go_on: str, start_anew: str) -> UsageError:
        """The error that says so.

        Args:
            go_on: the command that adopts the changes.
            start_anew: the command that begins anew.
        """
        lines = [
            f"  {each.text}{'' if each.adoptable else f'  (needs a new start: {each.obstacle})'}"
            for each in self.differences
        ]
        ways = ["Put the old values back to go on as it was begun"]
        if self.adoptable:
            ways.append(f"or go on from step {self.step} with the new ones: {go_on}")
        ways.append(f"or start anew, with the old work set aside: {start_anew}")
        return UsageError(
            f"the {self.stage} stage is unfinished (at step {self.step}) and was begun with other inputs:\n"
            + "\n".join(lines),
            "\n  ".join(ways),
        )


def differences(before: StageInputs, after: StageInputs, step: int = 0) -> list[Difference]:
    """What differs, settings first; empty where the inputs are equal.

    Args:
        before: what the work was begun with.
        after: what the recipe says now.
        step: the newest checkpoint's.
    """
    found = [
        Difference(
            f"{name} {_json(before, name)} -> {_json(after, name)}", obstacle(before, after, name, step)
        )
        for name in sorted(before.settings.keys() | after.settings.keys())
        if _json(before, name) != _json(after, name)
    ]
    was, now = _models(before), _models(after)
    found += [
        Difference(f"{role} {was.get(role) or 'none'} -> {now.get(role) or 'none'}", _OTHER_MODEL)
        for role in dict.fromkeys((*now, *was))
        if was.get(role) != now.get(role)
    ]
    return found + [
        Difference(f"data {split}", _OTHER_DATA)
        for split in dict.fromkeys((*after.data, *before.data))
        if before.data.get(split) != after.data.get(split)
    ]


def summary(found: Sequence[Difference]) -> str:
    """The first few differences in one line."""
    more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
    return "; ".join(difference.text for difference in found[:6]) + more


def parent_was_rebuilt(before: StageInputs, after: StageInputs, parent_names: Sequence[str]) -> bool:
    """Whether another version of a parent stage's artefact is among the inputs, so that the stage must begin anew.

    Args:
        before, after: the inputs.
        parent_names: artefact names of the recipe's own stages that feed this one.
    """
    was, now = _models(before), _models(after)
    return any(
        model is not None
        and was.get(role) != model
        and (model.reference or "").partition("@")[0] in parent_names
        for role, model in now.items()
    )


def _models(inputs: StageInputs) -> dict[str, ModelInput | None]:
    return {"policy": inputs.policy, "reward_model": inputs.reward_model, **inputs.reward_models}


def _json(inputs: StageInputs, name: str) -> str:
    return json.dumps(inputs.settings[name]) if name in inputs.settings else "absent"
