"""What differs between two inputs of a stage; and unfinished work that the recipe no longer describes.

Such work is neither gone on from with other settings nor set aside without being asked: a run refuses, shows the
differences, and names the ways on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.errors import UsageError
from rlhf.recipe import Stage
from rlhf.stages.inputs import ModelInput, StageInputs

_SHAPE_NOTHING = ("model.attn_implementation", "model.trust_remote_code")
_IN_PPO_CHECKPOINT = ("ppo.adam_eps", "ppo.weight_decay")
"""AdamW's own settings come back with its state, whatever the recipe says by then."""
_NOT_IN_TRAINER_CHECKPOINT = (
    *("num_epochs", "max_steps", "warmup_fraction", "lr_floor_fraction", "max_grad_norm"),
    *("eval_every_steps", "save_every_steps", "num_reference_samples"),
)
"""Of transformers' Trainer: the peak learning rate, weight decay, patience and the order of rows come back with its state."""


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
        text: what, with the old and the new value.
        adoptable: whether a checkpoint of the old inputs can go on with the new value.
    """

    text: str
    adoptable: bool


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
            f"  {difference.text}{'' if difference.adoptable else '  (needs a new start)'}"
            for difference in self.differences
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


def differences(before: StageInputs, after: StageInputs) -> list[Difference]:
    """What differs, settings first; empty where the inputs are equal."""
    found = [
        Difference(f"{name} {_json(before, name)} -> {_json(after, name)}", _adoptable(after.stage, name))
        for name in sorted(before.settings.keys() | after.settings.keys())
        if _json(before, name) != _json(after, name)
    ]
    was, now = _models(before), _models(after)
    found += [
        Difference(f"{role} {was.get(role) or 'none'} -> {now.get(role) or 'none'}", False)
        for role in dict.fromkeys((*now, *was))
        if was.get(role) != now.get(role)
    ]
    return found + [
        Difference(f"data {split}", False)
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


def _adoptable(stage: Stage, name: str) -> bool:
    if name in _SHAPE_NOTHING:
        return True
    if name.startswith(("model.", "data.")):
        return False
    if stage == "ppo":
        return name not in _IN_PPO_CHECKPOINT
    section, _, field = name.partition(".")
    return section == stage and field in _NOT_IN_TRAINER_CHECKPOINT
