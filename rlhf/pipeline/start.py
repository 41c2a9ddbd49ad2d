"""Where the starting model's configuration lies on this machine, for what is checked before anything starts."""

import json
from pathlib import Path

from rlhf.pipeline.pins import Pins, hub_errors, is_hub_model
from rlhf.recipe import Recipe
from rlhf.registry import REGISTRY_PREFIX, Registry


def start_folder(recipe: Recipe, registry: Registry, pins: Pins) -> Path | None:
    """The folder with the starting model's config.json; None for one from scratch, or where the hub does not give it.

    An adapter stands for the base that it names, if that is on this machine.
    """
    path = recipe.model.path
    if path is None:
        return None
    if path.startswith(REGISTRY_PREFIX):
        folder = registry.resolve(pins.version(registry, path.removeprefix(REGISTRY_PREFIX))).path
    elif is_hub_model(path):
        return _from_hub(path, recipe.model.revision)
    else:
        folder = Path(path)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        return Path(base) if base and Path(base).is_dir() else None
    return folder


def _from_hub(name: str, revision: str | None) -> Path | None:
    """The cached snapshot, after fetching the configuration alone; the stage itself reports what cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent
    except hub_errors():
        return None
