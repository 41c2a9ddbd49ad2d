"""What a base in 4 bits needs is looked for before anything starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TinyRecipe, environment

from rlhf.errors import RecipeError, UsageError
from rlhf.pipeline import preflight
from rlhf.pipeline.preflight import check_quantization
from rlhf.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[3]
MODEL = {"path": "owner/base", "revision": "0" * 40, "lora": {"r": 4, "quantize": "nf4"}}


def quantized(recipe: TinyRecipe, *overrides: str) -> Recipe:
    recipe.write(recipe.sections() | {"model": MODEL})
    return load_recipe(recipe.path, overrides)


def test_without_bitsandbytes_the_extra_is_named(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_recipe(tiny_recipe.path)
    recipe = quantized(tiny_recipe)
    check_quantization(recipe)
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    check_quantization(plain)
    with pytest.raises(UsageError, match=r"quantize: nf4 needs bitsandbytes(.|\n)*\.\[qlora\]"):
        check_quantization(recipe)


def test_a_configuration_with_fsdp_is_refused(tiny_recipe: TinyRecipe) -> None:
    config = ROOT / "recipes/accelerate/fsdp2.yaml"
    recipe = quantized(tiny_recipe, f"launch.accelerate_config={config}")
    with pytest.raises(RecipeError, match=r"fsdp2\.yaml takes FSDP, which cannot read its checkpoints again"):
        check_quantization(recipe)


@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3"])
def test_others_are_taken(tiny_recipe: TinyRecipe, name: str) -> None:
    config = ROOT / f"recipes/accelerate/{name}.yaml"
    check_quantization(quantized(tiny_recipe, f"launch.accelerate_config={config}"))


def test_a_run_asks_before_it_looks_at_data(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    """With a Python that finds no bitsandbytes, whatever is installed here."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tiny_recipe.write(tiny_recipe.sections() | {"model": {"path": str(base), "lora": {"quantize": "nf4"}}})
    script = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'bitsandbytes' else real(name, *a)\n"
        "import sys; sys.argv = ['rlhf', 'run', 'recipe.yaml']\n"
        "from rlhf.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tiny_recipe.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "needs bitsandbytes, which is not installed" in done.stderr
    assert not (tiny_recipe.run / "sft").exists()
