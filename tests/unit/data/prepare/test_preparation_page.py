"""docs/preparation.md agrees with the code: its recipes load, its counts exist, its example of filler words holds."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import TinyRecipe

from rlhf.data.prepare.fillers import filler_remover
from rlhf.data.prepare.split import _PHRASES
from rlhf.recipe import load_recipe

TEXT = (Path(__file__).resolve().parents[4] / "docs" / "preparation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_recipes_of_the_page_load(block: str, tiny_recipe: TinyRecipe) -> None:
    given: dict[str, Any] = yaml.safe_load(block)["data"]
    sections = tiny_recipe.sections()
    sections["data"] |= given
    tiny_recipe.write(sections)
    assert load_recipe(tiny_recipe.path).stages() == ["sft", "reward", "ppo"]


def test_every_count_is_on_the_page() -> None:
    table = TEXT.partition("| step |")[2].partition("\n\n")[0]
    named = {
        name
        for cell in re.findall(r"\| ([^|]*) \|\n", table + "\n")
        for name in re.findall(r"`([^`]+)`", cell)
    }
    assert {name.rpartition(".")[2] for name in named} == {*_PHRASES, "CODE"}


def test_the_example_of_filler_words_holds() -> None:
    before, after = re.findall(r'"(It was[^"]*)"', TEXT)
    assert filler_remover(["um", "you know"])(before) == after
