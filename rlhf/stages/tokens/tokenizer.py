"""The tokenizer that a recipe will train with, where this machine has it already."""

from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rlhf.errors import RegistryError
from rlhf.models.tokenizer import load_tokenizer
from rlhf.recipe import Recipe
from rlhf.registry import REGISTRY_PREFIX, Registry
from rlhf.stages.inputs import registry_folder

_FILES = ("tokenizer_config.json", "tokenizer.json")


class RecipeTokenizer(NamedTuple):
    """A tokenizer, or why there is none."""

    tokenizer: PreTrainedTokenizerBase | None
    missing: str = ""
    """In plain words, to go behind `checks with the tokenizer were left out: `."""


def load_recipe_tokenizer(recipe: Recipe) -> RecipeTokenizer:
    """Load it with the recipe's chat template; nothing is fetched.

    Raises:
        ModelError: it is here, and cannot be loaded or used.
    """
    path = recipe.model.path
    if path is None:
        return RecipeTokenizer(None, "it is trained by the SFT stage, on the data themselves")
    folder = _folder(recipe, path)
    if folder is None:
        return RecipeTokenizer(None, f"{path} is not on this machine")
    return RecipeTokenizer(
        load_tokenizer(
            folder,
            chat_template_file=recipe.model.chat_template,
            trust_remote_code=recipe.model.trust_remote_code,
        )
    )


def _folder(recipe: Recipe, path: str) -> Path | None:
    if path.startswith(REGISTRY_PREFIX):
        try:
            return Registry(registry_folder(recipe)).resolve(path.removeprefix(REGISTRY_PREFIX)).path
        except RegistryError:
            return None
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    return _cached(path, recipe.model.revision) if path.count("/") == 1 else None


def _cached(name: str, revision: str | None) -> Path | None:
    """The snapshot of a hub model in the local cache, if its tokenizer has been fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(name, file, revision=revision) for file in _FILES]
    except HFValidationError:
        return None  # no name of a hub model
    return next((Path(file).parent for file in found if isinstance(file, str)), None)
