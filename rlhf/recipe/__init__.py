"""The recipe: one YAML file a run, as frozen Pydantic models."""

from rlhf.recipe.data import DataSource, RecordKind, Splits
from rlhf.recipe.load import load_recipe
from rlhf.recipe.recipe import SPLITS_OF, STAGES, Recipe, Stage, digest_of

__all__ = [
    "SPLITS_OF",
    "STAGES",
    "DataSource",
    "Recipe",
    "RecordKind",
    "Splits",
    "Stage",
    "digest_of",
    "load_recipe",
]
