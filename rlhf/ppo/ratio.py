"""Before the first update of a step, policy and rollout must say the same of the same tokens."""

from rlhf.errors import TrainingError
from rlhf.recipe.ppo import PPOSection

MAX_DEVIATION = {"no": 1e-5, "bf16": 0.02}


def check_ratio(section: PPOSection, precision: str, abs_log_ratio: float, step: int) -> None:
    """Raise TrainingError where the mean |log ratio| of a step's first minibatch is above what rounding explains.

    Args:
        section: the recipe's `ppo`.
        precision: of forward passes: `bf16` or `no`.
        abs_log_ratio: nats a token.
        step: counts from 0.
    """
    limit = section.max_ratio_deviation or MAX_DEVIATION.get(precision, 0.02)
    if abs_log_ratio > limit:
        raise TrainingError(
            f"step {step + 1}: mean |log ratio| on the first minibatch is {abs_log_ratio:.3g}, above {limit:.3g}: "
            "policy and rollout disagree about the same tokens before any update",
            "Likely causes: dropout left on, padding or positions, another sampling temperature, lower precision in one "
            "of the two passes. Raise ppo.max_ratio_deviation only if you know which.",
        )
