"""Every file under recipes/ is one that works: it loads, and what it names is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from jinja2 import Environment

from rlhf.recipe import load_recipe

ROOT = Path(__file__).parents[3]
ACCELERATE = sorted((ROOT / "recipes/accelerate").glob("*.yaml"))
RECIPES = sorted(set((ROOT / "recipes").rglob("*.yaml")) - set(ACCELERATE))
SCRIPTS = sorted((ROOT / "recipes").rglob("*.sh"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_recipes_that_the_readme_speaks_of_are_there() -> None:
    assert {name_of(path) for path in RECIPES} >= {
        "recipes/movie_reviews/quickstart.yaml",
        "recipes/movie_reviews/smollm2.yaml",
        "recipes/tldr/pythia-1b.yaml",
        "recipes/ultrafeedback/qwen2.5-0.5b.yaml",
        "recipes/ultrafeedback/llama-3.1-8b.yaml",
    }


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_loads_with_all_stages_and_names_files_that_exist(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.stages() == ["sft", "reward", "ppo"]
    for file in (recipe.model.chat_template, recipe.launch.accelerate_config):
        assert file is None or (ROOT / file).is_file()


def test_recipe_names_differ_so_that_no_two_share_a_run() -> None:
    names = [load_recipe(path).name for path in RECIPES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_text_of_a_recipe_names_itself_in_the_command_that_it_shows(path: Path) -> None:
    assert f"rlhf run {name_of(path)}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "kind", "stage"),
    [
        ("ddp", "MULTI_GPU", None),
        ("fsdp2", "FSDP", None),
        ("zero2", "DEEPSPEED", 2),
        ("zero3", "DEEPSPEED", 3),
    ],
)
def test_accelerate_reads_its_configurations(name: str, kind: str, stage: int | None) -> None:
    config = load_config_from_file(str(ROOT / f"recipes/accelerate/{name}.yaml"))
    assert config.distributed_type == kind
    assert config.deepspeed_config.get("zero_stage") == stage


def test_there_is_a_script_for_each_folder_of_recipes() -> None:
    assert {path.parent for path in SCRIPTS} == {path.parent for path in RECIPES}


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_is_executable_bash_and_runs_recipes_that_exist(path: Path) -> None:
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)
    named = re.findall(r"recipes/[\w./-]+\.(?:yaml|py)", path.read_text(encoding="utf-8"))
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_llama_template_writes_the_published_format() -> None:
    template = Environment().from_string((ROOT / "recipes/ultrafeedback/llama3.jinja").read_text())
    turns = [{"role": "user", "content": "Hi "}, {"role": "assistant", "content": "Yo"}]
    question = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi <|eot_id|>"
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    bos = "<|begin_of_text|>"
    assert template.render(messages=turns[:1], bos_token=bos, add_generation_prompt=True) == question + header
    assert template.render(messages=turns, bos_token=bos) == f"{question}{header}Yo<|eot_id|>"
