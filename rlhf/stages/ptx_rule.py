"""The length rule of the demonstrations that PPO-ptx trains on."""

from rlhf.recipe import Recipe
from rlhf.recipe.training import SFTSection


def ptx_section(recipe: Recipe) -> SFTSection:
    """The SFT stage's own, where there is one; else what fits into a prompt and a response, longer rows dropped."""
    if recipe.sft is not None:
        return recipe.sft
    section = recipe.ppo
    assert section is not None
    return SFTSection.model_validate(
        {
            "learning_rate": section.learning_rate,
            "global_batch_size": 1,
            "per_device_batch_size": 1,
            "max_length": section.max_prompt_length + section.sampling.max_new_tokens,
            "over_length": "drop",
        }
    )
