"""What PPO's models weigh: which of them hold the policy's base together (`ppo.backbone`), in which precision (`ppo.dtype`)."""

from pathlib import Path

from torch import nn

from rlhf.errors import ModelError, UsageError
from rlhf.models.load import ModelSource
from rlhf.models.rounding import round_weights
from rlhf.models.shared import SharedWeights, parameter_bytes
from rlhf.stages.context import StageContext, weights_digest


class Backbone:
    """Rounds models where the recipe asks for it, and lets those on the policy's base share its weights.

    Args:
        context: PPO's.

    Raises:
        UsageError: `shared`, and the policy trains all its weights.
    """

    def __init__(self, context: StageContext) -> None:
        section, policy = context.recipe.ppo, context.inputs.policy
        assert section is not None
        assert policy is not None
        self.is_shared = section.backbone == "shared"
        self.is_rounded = section.dtype == "bfloat16"
        self.policy = context.source(policy)
        self._weights = SharedWeights()
        self._joined: list[nn.Module] = []
        if self.is_shared and not self.policy.is_adapter and context.recipe.model.lora is None:
            raise UsageError(
                f"ppo.backbone: shared needs adapters, and {self.policy.path} would be trained whole",
                "Set model.lora, or ppo.backbone: separate.",
            )

    def join(self, model: nn.Module, source: ModelSource, name: str) -> nn.Module:
        """The same model, rounded as the recipe says, on the shared weights where its base is the policy's.

        Args:
            model: just loaded.
            source: where from.
            name: what it is, for the log and errors.

        Raises:
            ModelError: its weights are not those of the base that it names.
        """
        self._joined.append(model)
        if self.is_rounded:  # before its weights are compared with those that are held
            round_weights(model)
        if not self.is_shared:
            return model
        if _same_base(source, self.policy):
            self._weights.join(model, name)
        else:
            place = _named_base(source.base)
            print(f"{name}: does not share the policy's backbone: it lies on {place}", flush=True)
        return model

    def require(self, source: ModelSource, name: str) -> None:
        """Refuse a model that could not share the backbone.

        Raises:
            ModelError: naming both bases.
        """
        if not self.is_shared or _same_base(source, self.policy):
            return
        what = "is an adapter on" if source.is_adapter else "is a whole model:"
        raise ModelError(
            f"ppo.backbone: shared needs the {name} to be an adapter on the policy's base; {source.path} {what} "
            f"{_named_base(source.base)}, the policy lies on {_named_base(self.policy.base)}",
            "Train the reward model with model.lora on that base, or set ppo.backbone: separate.",
        )

    def __str__(self) -> str:
        held, apart = parameter_bytes(self._joined), sum(parameter_bytes([model]) for model in self._joined)
        kind = "shared" if self.is_shared else "separate"
        return (
            f"backbone: {kind}: {len(self._joined)} models hold {held / 2**20:.1f} MiB of weights, "
            f"{apart / 2**20:.1f} MiB if each had its own"
        )


def _same_base(one: ModelSource, other: ModelSource) -> bool:
    """By hub commit, or by the content of a local folder, which may have been copied; and held alike."""
    first, second = one.base, other.base
    if first.quantization != second.quantization:
        return False
    if (first.path, first.revision) == (second.path, second.revision):
        return True
    digests = [_digest(base) for base in (first, second)]
    return digests[0] is not None and digests[0] == digests[1]


def _digest(base: ModelSource) -> str | None:
    return weights_digest(Path(base.path)) if Path(base.path).is_dir() else base.revision


def _named_base(base: ModelSource) -> str:
    digest = _digest(base)
    held = "" if base.quantization is None else f" in {base.quantization.kind}"
    return f"{base.path}{held}" if digest is None else f"{base.path}{held} (digest {digest[:12]})"
