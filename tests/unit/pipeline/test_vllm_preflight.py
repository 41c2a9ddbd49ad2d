"""Before anything starts: is vLLM there, where PPO is to sample with it?"""

import pytest
from tiny import TinyRecipe

from rlhf.errors import UsageError
from rlhf.pipeline import preflight
from rlhf.pipeline.preflight import check_vllm
from rlhf.recipe import load_recipe


def test_without_vllm_the_extra_is_named(tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(tiny_recipe.path, ["ppo.sampling.engine=vllm"])
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    check_vllm(load_recipe(tiny_recipe.path), ["ppo"])
    check_vllm(recipe, ["sft", "reward"])
    with pytest.raises(UsageError, match=r"engine: vllm needs vLLM(.|\n)*trl\[vllm\]"):
        check_vllm(recipe, ["sft", "ppo"])
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: object())
    check_vllm(recipe, ["ppo"])
