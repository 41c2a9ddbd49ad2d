"""What `launch` becomes: Accelerate's environment, a command line; what cannot be is refused with its reason."""

import os
import sys
from pathlib import Path

import pytest
import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from tiny import TinyRecipe

from rlhf.errors import RecipeError, UsageError
from rlhf.pipeline import preflight
from rlhf.pipeline.launch import SAVE_SECONDS, stage_environment
from rlhf.pipeline.preflight import check_strategy
from rlhf.pipeline.strategy import launcher_command, strategy_environment
from rlhf.recipe import load_recipe
from rlhf.recipe.launch import LaunchSection
from rlhf.stages.inputs import stage_inputs

ROOT = Path(__file__).parents[3]
MEETING = "--rdzv_endpoint node-1:29500 --rdzv_id rlhf --nproc_per_node 8"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    """Sets a launch section's variables, without those that the machine may have."""

    def set_all(**launch: object) -> None:
        for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
            monkeypatch.delenv(name)
        for name, value in strategy_environment(LaunchSection.model_validate(launch)).items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize("offload", [False, True])
def test_accelerate_reads_fsdp2_from_the_environment(environment, offload: bool) -> None:
    environment(strategy="fsdp2", cpu_offload=offload)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (
        2,
        True,
        False,
    )
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert getattr(plugin.auto_wrap_policy, "__name__", "") == "transformer_auto_wrap_policy"
    kind = type(plugin.cpu_offload).__name__
    assert kind == ("CPUOffloadPolicy" if offload else "OffloadPolicy")


@pytest.mark.parametrize(("strategy", "stage"), [("zero1", 1), ("zero2", 2), ("zero3", 3)])
def test_accelerate_reads_zero_from_the_environment(environment, strategy: str, stage: int) -> None:
    environment(strategy=strategy, cpu_offload=True)
    plugin = DeepSpeedPlugin()
    zero = plugin.deepspeed_config["zero_optimization"]
    assert (zero["stage"], zero["offload_optimizer"]["device"]) == (stage, "cpu")
    assert zero["offload_param"]["device"] == ("cpu" if stage == 3 else "none")
    assert zero["stage3_gather_16bit_weights_on_model_save"] is True
    assert plugin.zero3_init_flag is False
    environment(strategy=strategy)
    assert DeepSpeedPlugin().deepspeed_config["zero_optimization"]["offload_optimizer"]["device"] == "none"


def test_ddp_needs_no_environment() -> None:
    assert strategy_environment(LaunchSection(num_processes=4)) == {}


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        ({}, "{python}"),
        (
            {"strategy": "zero3"},
            "{python} -m torch.distributed.run --standalone --nproc_per_node 1",
        ),
        ({"num_processes": 2}, "{python} -m torch.distributed.run --standalone --nproc_per_node 2"),
        (
            {
                "num_processes": 8,
                "num_machines": 2,
                "rendezvous": "node-1:29500",
                "prefix": ["srun", "--ntasks-per-node=1"],
            },
            "srun --ntasks-per-node=1 {python} -m torch.distributed.run --nnodes 2 --rdzv_backend c10d {meeting}",
        ),
    ],
)
def test_the_command_starts_every_process(launch: dict[str, object], expected: str) -> None:
    command = launcher_command(LaunchSection.model_validate(launch))
    assert " ".join(command) == expected.format(python=f"{sys.executable} -u", meeting=MEETING)


@pytest.mark.parametrize(
    ("overrides", "where", "reason"),
    [
        (["launch.cpu_offload=true"], "launch.cpu_offload", "ddp shares out nothing"),
        (["launch.num_machines=2", "launch.prefix=[srun]"], "launch.rendezvous", "host:port"),
        (["launch.num_machines=2", "launch.rendezvous=a:1"], "launch.prefix", "starts the command on each"),
        (["launch.rendezvous=a:1"], "launch.rendezvous", "only several machines"),
        (["launch.rendezvous=a"], "launch.rendezvous", "pattern"),
        (
            ["launch.accelerate_config=z.yaml", "launch.strategy=zero3"],
            "launch.accelerate_config",
            "so does strategy: zero3",
        ),
        (
            [
                "launch.accelerate_config=z.yaml",
                "launch.num_machines=2",
                "launch.rendezvous=a:1",
                "launch.prefix=[srun]",
            ],
            "launch.accelerate_config",
            "start through torchrun",
        ),
        (
            [
                "launch.num_processes=2",
                "launch.num_machines=2",
                "launch.rendezvous=a:1",
                "launch.prefix=[srun]",
            ],
            "sft.global_batch_size",
            "x 4 processes = 32",
        ),
    ],
)
def test_impossible_layouts_are_refused_as_the_recipe_is_read(
    tiny_recipe: TinyRecipe, overrides: list[str], where: str, reason: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(tiny_recipe.path, overrides)
    assert where in str(caught.value)
    assert reason in str(caught.value)


def test_the_layout_does_not_change_what_a_stage_is_known_by(tiny_recipe: TinyRecipe) -> None:
    layouts = [[], ["launch.strategy=fsdp2"], ["launch.strategy=zero3", "launch.cpu_offload=true"]]
    recipes = [load_recipe(tiny_recipe.path, overrides) for overrides in layouts]
    digests = {
        stage_inputs(recipe, "sft", policy=None, reward_model=None, data={}).digest for recipe in recipes
    }
    assert len(digests) == 1


def config_file(folder: Path, kind: str, **settings: object) -> str:
    section = "fsdp_config" if kind == "FSDP" else "deepspeed_config"
    path = folder / "accelerate.yaml"
    path.write_text(yaml.safe_dump({"distributed_type": kind, section: settings}))
    return str(path)


FSDP = {
    "fsdp_version": 2,
    "fsdp_cpu_ram_efficient_loading": False,
    "fsdp_state_dict_type": "FULL_STATE_DICT",
}
ZERO3 = {"zero_stage": 3, "zero3_init_flag": False, "zero3_save_16bit_model": True}


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("FSDP", FSDP | {"fsdp_version": 1}, "the first one is not supported"),
        ("FSDP", FSDP | {"fsdp_cpu_ram_efficient_loading": True}, "empty on all processes but the first"),
        ("FSDP", FSDP | {"fsdp_state_dict_type": "SHARDED_STATE_DICT"}, "no whole model"),
        ("DEEPSPEED", ZERO3 | {"zero3_init_flag": True}, "cut into parts"),
        ("DEEPSPEED", ZERO3 | {"zero3_save_16bit_model": False}, "no whole model"),
        ("MEGATRON_LM", {}, "no stage runs under it"),
    ],
)
def test_a_configuration_that_leaves_models_incomplete_is_refused(
    tiny_recipe: TinyRecipe, tmp_path: Path, kind: str, settings: dict[str, object], reason: str
) -> None:
    config = config_file(tmp_path, kind, **settings)
    with pytest.raises(RecipeError, match=reason):
        check_strategy(load_recipe(tiny_recipe.path, [f"launch.accelerate_config={config}"]))


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_shipped_configurations_are_accepted(tiny_recipe: TinyRecipe, name: str) -> None:
    config = ROOT / f"recipes/accelerate/{name}.yaml"
    check_strategy(load_recipe(tiny_recipe.path, [f"launch.accelerate_config={config}"]))


def test_zero_without_deepspeed_is_refused(tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install deepspeed"):
        check_strategy(load_recipe(tiny_recipe.path, ["launch.strategy=zero2"]))


def test_torchrun_gives_its_processes_as_long_as_a_save_may_take(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchrun's own 30 s would kill them in the middle of a large one; who sets it himself is heard."""
    from torch.distributed.launcher.api import LaunchConfig

    recipe = load_recipe(tiny_recipe.path, ["launch.strategy=fsdp2"])
    for own, expected in ((None, SAVE_SECONDS), ("90", 90)):
        monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
        if own is not None:
            monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", own)
        for name, value in stage_environment(recipe).items():
            monkeypatch.setenv(name, value)
        assert LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2).shutdown_timeout == expected
