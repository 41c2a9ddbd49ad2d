"""An exponential moving average of the policy's weights: smoother than the last step's, for evaluation and publishing.

Does not decide when it is updated, nor what is done with it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rlhf.errors import CheckpointError


class PolicyEMA:
    """A float32 shadow of the parameters that train (with LoRA: of the adapter alone), on their devices, in their parts.

    It starts as the weights themselves, so that there is no start-up bias to correct.

    Args:
        policy: the policy, unwrapped; what has `requires_grad` now is followed.
        decay: the shadow's share in each update, in (0, 1).

    Raises:
        ValueError: a decay outside (0, 1), or nothing to follow.
    """

    def __init__(self, policy: nn.Module, *, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} must be above 0 and below 1")
        self.decay = decay
        self._weights = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        if not self._weights:
            raise ValueError("no parameter of the policy is trained: there is nothing to average")
        self._shadow: dict[str, Tensor] = {
            name: value.detach().to(torch.float32, copy=True) for name, value in self._weights.items()
        }
        self._is_applied = False

    @torch.no_grad()
    def update(self) -> None:
        """shadow = decay x shadow + (1 - decay) x weight; once a PPO step, on every rank.

        Computed as shadow + (1 - decay) x (weight - shadow), which leaves a weight that does not move exactly as
        it is.
        """
        assert not self._is_applied, "the weights are the shadow's own now"
        for name, weight in self._weights.items():
            self._shadow[name].lerp_(weight.float(), 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the policy, and on leaving the trained weights back, bit for bit."""
        assert not self._is_applied, "the weights are the shadow's own already"
        trained = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._is_applied = True
        try:
            self._copy(self._shadow)
            yield
        finally:
            self._copy(trained)
            self._is_applied = False

    def state_dict(self) -> dict[str, Any]:
        """The shadow, whole; the decay is the recipe's. Every rank calls it, since each may hold a part."""
        return {"shadow": {name: _whole(value) for name, value in self._shadow.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the shadow, from any device.

        Raises:
            CheckpointError: no shadow, or one of other parameters or shapes.
        """
        shadow: Mapping[str, Tensor] | None = state_dict.get("shadow")
        if shadow is None:
            raise CheckpointError(f"the moving average's state has no 'shadow', only {sorted(state_dict)}")
        differing = sorted(
            name
            for name in self._shadow.keys() | shadow.keys()
            if name not in self._shadow
            or name not in shadow
            or self._shadow[name].shape != shadow[name].shape
        )
        if differing:
            raise CheckpointError(
                f"the moving average in the checkpoint is of another policy: {len(differing)} parameters differ, "
                f"such as {differing[0]}",
                "Start anew with --fresh, or restore the model and adapter settings that wrote the checkpoint.",
            )
        for name, value in shadow.items():
            self._shadow[name].copy_(_parted(value, self._shadow[name]))

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _parted(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, which every rank holds."""
    if not isinstance(like, DTensor):
        return value
    # Each rank cuts out its own: no broadcast from the first one.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
