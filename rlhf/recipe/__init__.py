"""The recipe: one YAML file a run, as frozen Pydantic models."""

from rlhf.recipe.data import DataSource, RecordKind, Splits
from rlhf.recipe.load import load_recipe
from rlhf.recipe.recipe import Recipe, digest_of
from rlhf.recipe.secrets import redact
from rlhf.recipe.stages import SPLITS_OF, STAGES, Stage

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
    "redact",
]
