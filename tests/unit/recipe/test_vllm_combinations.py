"""What cannot be combined with `engine: vllm`, said as soon as the recipe is read; what older runs were made of stays the same."""

import pytest
from tiny import TinyRecipe, write_tiny_recipe

from rlhf.errors import RecipeError
from rlhf.recipe import load_recipe
from rlhf.stages.inputs import stage_inputs

SERVER = {"mode": "server", "server_url": "http://localhost:8000"}


def recipe_of(folder, sampling, **sections) -> TinyRecipe:
    recipe = write_tiny_recipe(folder, {"ppo": {"sampling": {"max_new_tokens": 12} | sampling}})
    recipe.write(recipe.sections() | sections)
    return recipe


@pytest.mark.parametrize(
    "sampling",
    [
        {"stop": ["\n"]},
        {"vllm": {}},
        {"vllm": {"gpu_memory_utilization": 0.5, "sleep": True}},
        {"vllm": SERVER},
        {"vllm": {"max_importance_weight": 1}},
    ],
)
def test_these_may_be_set(tmp_path, sampling):
    read = load_recipe(recipe_of(tmp_path, {"engine": "vllm"} | sampling).path)
    assert read.ppo is not None
    settings = read.ppo.sampling.vllm_settings
    assert settings.mode == sampling.get("vllm", {}).get("mode", "colocate")
    assert settings.max_importance_weight == sampling.get("vllm", {}).get("max_importance_weight", 2.0)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (
            {"top_p": 0.9},
            r"sampling\.top_p.*: vLLM does not say which tokens top_p left.*engine: hf or graph",
        ),
        (
            {"min_p": 0.1},
            r"sampling\.min_p.*: vLLM does not say which tokens min_p left.*engine: hf or graph",
        ),
        ({"engine": "hf", "vllm": {}}, r"sampling\.vllm.*: vllm is set.*set engine: vllm"),
        ({"vllm": {"mode": "server"}}, r"vllm\.mode.*: mode: server needs server_url"),
        ({"vllm": {"server_url": "http://x:1"}}, r"vllm\.server_url.*: .*set mode: server"),
        ({"vllm": SERVER | {"sleep": True}}, r"vllm\.sleep.*: sleep is a colocated engine's"),
        ({"vllm": SERVER | {"gpu_memory_utilization": 0.4}}, r"gpu_memory_utilization.*: .*colocated"),
        ({"vllm": {"max_importance_weight": 0.5}}, r"max_importance_weight"),
        ({"vllm": SERVER | {"server_url": "localhost:8000"}}, r"server_url"),
    ],
)
def test_these_are_refused(tmp_path, sampling, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(recipe_of(tmp_path, {"engine": "vllm"} | sampling).path)


@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_shared_out_weights_are_refused(tmp_path, strategy):
    recipe = recipe_of(tmp_path, {"engine": "vllm"}, launch={"strategy": strategy})
    with pytest.raises(RecipeError, match=rf"sampling\.engine.*: .*which {strategy} cuts up.*zero1 or zero2"):
        load_recipe(recipe.path)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2"])
def test_whole_weights_are_taken(tmp_path, strategy):
    load_recipe(recipe_of(tmp_path, {"engine": "vllm"}, launch={"strategy": strategy}).path)


def test_a_base_in_4_bits_is_refused(tmp_path):
    model = {"path": "owner/base", "revision": "0" * 40, "lora": {"r": 4, "quantize": "nf4"}}
    with pytest.raises(RecipeError, match=r"sampling\.engine.*: .*4 bits.*engine: hf"):
        load_recipe(recipe_of(tmp_path, {"engine": "vllm"}, model=model).path)


def test_the_cap_counts_among_what_decides_the_result_where_the_server_is_does_not(tmp_path):
    """A run that was finished before the settings existed is not built anew."""

    def inputs(**sampling):
        recipe = load_recipe(recipe_of(tmp_path, sampling).path)
        return stage_inputs(recipe, "ppo", policy=None, reward_model=None, data={})

    assert not [key for key in inputs().settings if "vllm" in key]
    by_server = inputs(engine="vllm", vllm=SERVER)
    colocated = inputs(engine="vllm").digest
    assert colocated == inputs(engine="vllm", vllm={"gpu_memory_utilization": 0.2, "sleep": True}).digest
    assert colocated == inputs(engine="vllm", vllm={"max_importance_weight": 2.0}).digest != by_server.digest
    assert by_server.digest == inputs(engine="vllm", vllm=SERVER | {"server_url": "http://x:1"}).digest
    assert by_server.digest != inputs(engine="vllm", vllm=SERVER | {"max_importance_weight": 3}).digest
