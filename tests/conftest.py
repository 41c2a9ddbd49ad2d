"""Fixtures that several test packages share: a recipe that trains all three stages in seconds, and how to run it."""

from pathlib import Path

import pytest
from tiny import TinyRecipe, write_tiny_recipe


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> TinyRecipe:
    """A scratch Llama on a few dozen hand-made rows, all three stages, in a folder of its own."""
    return write_tiny_recipe(tmp_path)
