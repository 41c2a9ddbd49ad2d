"""Which changed settings a checkpoint can go on with: those that it brings no state of, and that pair with its numbers."""

from rlhf.recipe import Stage
from rlhf.stages.inputs import StageInputs

_SHAPE_NOTHING = ("model.attn_implementation", "model.trust_remote_code")
_LENGTHS = {"sft": "sft.max_steps", "reward": "reward.max_steps", "ppo": "ppo.num_steps"}
_NOT_IN_TRAINER_CHECKPOINT = (
    *("num_epochs", "max_steps", "warmup_fraction", "lr_floor_fraction", "max_grad_norm"),
    *("eval_every_steps", "save_every_steps", "num_reference_samples"),
)
"""Of transformers' Trainer: the peak learning rate, weight decay, patience and the order of rows come back with its state."""
_READ_ANEW = ("ppo.evaluation.num_shown", "ppo.evaluation.patience", "ppo.evaluation.kl_budget")
_IN_PPO_CHECKPOINT = {
    "seed": "the steps so far were sampled with the old one",
    "ppo.seed": "the steps so far were sampled with the old one",
    "code": "the checkpoint's evaluations were judged by the old one",
    "ppo.reward_model": "the checkpoint's evaluations were judged by the old one",
    "ppo.rewards": "the checkpoint's evaluations were judged by the old ones",
    "ppo.combine": "the checkpoint's evaluations were judged with the old one",
    "ppo.sampling": "the checkpoint's SFT answers were sampled with the old one",
    "ppo.evaluation": "the checkpoint's evaluations were made with the old one",
    "ppo.ema_decay": "the checkpoint's moving average, if any, was made with the old one",
    "ppo.shaping.normalize": "the checkpoint's running moments were kept for the old one",
    "ppo.adam_eps": "the checkpoint brings the old one back",
    "ppo.weight_decay": "the checkpoint brings the old one back",
    "ppo.kl.target": "the checkpoint's KL coefficient was adapted, or not, by the old one",
    "sft": "the rows of PPO-ptx would be others",
}
"""Settings, or the sections that they are in -> what in the checkpoint belongs to the old value."""


def obstacle(before: StageInputs, after: StageInputs, name: str, step: int) -> str | None:
    """Why work begun with one value of a setting cannot go on with another; None where it can.

    Args:
        before: what the work was begun with.
        after: what the recipe says now.
        name: a dotted setting that differs.
        step: the newest checkpoint's.
    """
    if name in _SHAPE_NOTHING:
        return None
    if name.startswith("model."):
        return "the checkpoint's weights are those of the old model section"
    if name.startswith("data."):
        return "the steps so far were made from other records"
    if name == _LENGTHS[after.stage] and _is_over(after.settings.get(name), step):
        return f"the newest checkpoint is at step {step} already"
    return _in_ppo(before, after, name) if after.stage == "ppo" else _in_trainer(after.stage, name)


def _is_over(num_steps: object, step: int) -> bool:
    return isinstance(num_steps, int) and num_steps <= step


def _in_trainer(stage: Stage, name: str) -> str | None:
    section, _, field = name.partition(".")
    is_read_anew = section == stage and field in _NOT_IN_TRAINER_CHECKPOINT
    return None if is_read_anew else "the checkpoint holds or follows the old one"


def _in_ppo(before: StageInputs, after: StageInputs, name: str) -> str | None:
    if name in _READ_ANEW:
        return None
    adapts = any(inputs.settings.get("ppo.kl.target") is not None for inputs in (before, after))
    if name == "ppo.kl.coef" and adapts:
        return "with ppo.kl.target the checkpoint's adapted coefficient takes its place"
    for place, why in _IN_PPO_CHECKPOINT.items():
        if name == place or name.startswith(f"{place}."):
            return why
    return None
