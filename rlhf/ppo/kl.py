"""KL between policy and reference: per-token estimators, and the coefficient that weighs it.

Does not decide where the penalty goes (reward or loss), nor sums over tokens.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from rlhf.errors import CheckpointError, TrainingError

KLEstimator = Literal["k1", "k2", "k3"]

_MAX_ERROR = 0.2


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KLEstimator) -> Tensor:
    """Estimate KL(policy || reference) at each token from the one token that the policy sampled.

    With log r = ref_logprobs - logprobs: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r
    (Schulman 2020, "Approximating KL Divergence"). k1 and k3 have the KL as their mean, k2 is biased.
    As a loss, on policy, the mean gradient is zero for k1, that of KL(policy || reference) for k2, and that of
    KL(reference || policy) for k3.

    Args:
        logprobs: [B, T] float, of the sampled tokens under the policy.
        ref_logprobs: [B, T] float, of the same tokens under the reference.
        kind: the estimator.

    Returns:
        [B, T] float32, in nats. There is no mask here: garbage gives garbage where it stands.

    Raises:
        ValueError: an unknown kind, or two shapes.
    """
    if logprobs.shape != ref_logprobs.shape:
        raise ValueError(
            f"logprobs has shape {list(logprobs.shape)}, ref_logprobs {list(ref_logprobs.shape)}"
        )
    log_ratio = ref_logprobs.float() - logprobs.float()
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return 0.5 * log_ratio.square()
    if kind == "k3":
        # exp(x) - 1 loses every digit near 0, where a policy that has barely moved is.
        return torch.expm1(log_ratio) - log_ratio
    raise ValueError(f"unknown KL estimator {kind!r}: one of k1, k2, k3")


class AdaptiveKLController:
    """Moves the KL coefficient so that the measured KL approaches a target (Ziegler et al. 2019, eq. 2.2).

    Args:
        init_kl_coef: the coefficient before the first update.
        target: nats a response.
        horizon: episodes over which the coefficient moves.

    Raises:
        ValueError: a coefficient below 0, or a target or horizon that is not above 0.
    """

    def __init__(self, init_kl_coef: float, target: float, horizon: int) -> None:
        if init_kl_coef < 0 or target <= 0 or horizon <= 0:
            raise ValueError(
                f"init_kl_coef={init_kl_coef} must be >= 0, target={target} and horizon={horizon} > 0"
            )
        self.value = float(init_kl_coef)
        self.target = float(target)
        self.horizon = horizon

    def update(self, kl: float, num_episodes: int) -> None:
        """Multiply the coefficient by 1 + clip(kl / target - 1, -0.2, 0.2) x num_episodes / horizon.

        Args:
            kl: nats, summed over each response, averaged over the global batch; k1, as measured when sampled.
            num_episodes: responses in the global batch, all ranks together.

        Raises:
            TrainingError: a KL that is not finite, or a step so large that the coefficient would not stay positive.
        """
        if not math.isfinite(kl):
            raise TrainingError(
                f"the KL that the coefficient adapts to is {kl}",
                "Look for the first non-finite metric of this step.",
            )
        error = min(max(kl / self.target - 1.0, -_MAX_ERROR), _MAX_ERROR)
        factor = 1.0 + error * num_episodes / self.horizon
        if factor <= 0:
            raise TrainingError(
                f"{num_episodes} episodes a step over a horizon of {self.horizon} would multiply the KL coefficient by {factor:.3g}",
                f"Raise kl.horizon well above {num_episodes // 5} episodes.",
            )
        self.value *= factor

    def state_dict(self) -> dict[str, float]:
        """Return the coefficient: target and horizon are the recipe's."""
        return {"value": self.value}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Restore the coefficient.

        Raises:
            CheckpointError: the state has no coefficient.
        """
        if "value" not in state_dict:
            raise CheckpointError(f"the KL controller's state has no 'value', only {sorted(state_dict)}")
        self.value = float(state_dict["value"])


class FixedKLController:
    """A coefficient that stays, with the face of `AdaptiveKLController`.

    Raises:
        ValueError: a coefficient below 0.
    """

    def __init__(self, kl_coef: float) -> None:
        if kl_coef < 0:
            raise ValueError(f"kl_coef={kl_coef} must be >= 0")
        self.value = float(kl_coef)

    def update(self, kl: float, num_episodes: int) -> None:
        """Leave the coefficient as it is."""

    def state_dict(self) -> dict[str, float]:
        """Return the coefficient, for an adaptive controller that goes on from here."""
        return {"value": self.value}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Leave the coefficient as it is: the recipe's, of which a checkpoint holds a copy at most."""


KLController = AdaptiveKLController | FixedKLController
