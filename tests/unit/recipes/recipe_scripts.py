"""Imports a recipe's own script by its path: the folders under recipes/ are no packages."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

RECIPES = Path(__file__).parents[3] / "recipes"


def load_script(path: str) -> ModuleType:
    """The module at `recipes/<path>`, under a name that no other module has."""
    name = f"recipe_script_{path.replace('/', '_').removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, RECIPES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
