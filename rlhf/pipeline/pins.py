"""What a recipe names loosely becomes exact once a run starts: hub commits and `@latest`.

Pins are kept with the run, so that a second call means the same models and data, and works offline.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlhf.data import digest_source, find_format
from rlhf.durable import write_atomic
from rlhf.errors import ModelError, RLHFError, UsageError
from rlhf.pipeline.folders import read_inputs
from rlhf.recipe import DataSource, Recipe, digest_of
from rlhf.registry import REGISTRY_PREFIX, Registry
from rlhf.registry.layout import artefact_versions
from rlhf.registry.references import parse_reference
from rlhf.stages.inputs import DONE_FILE, INPUTS_FILE, ModelInput

PINS_FILE = "pins.json"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class Pins:
    """Exact versions, remembered in the run's folder.

    Args:
        run_folder: the run's folder; need not exist.
        remember: write new pins there; False for a dry run.

    Raises:
        UsageError: the run's pins are damaged.
    """

    def __init__(self, run_folder: Path, *, remember: bool = True) -> None:
        self.path = run_folder / PINS_FILE
        self.remember = remember
        self.known: dict[str, str] = read_pins(self.path)

    def resolve(self, recipe: Recipe) -> Recipe:
        """The recipe with every hub revision as a commit.

        Raises:
            ModelError, DataError: a hub name that does not exist or cannot be reached, and was never pinned.
        """
        resolved = recipe.model_dump(mode="json")
        model = recipe.model
        if model.path is not None and is_hub_model(model.path):
            resolved["model"]["revision"] = self.commit("model", model.path, model.revision)
        for read in recipe.all_reads(recipe.stages()):
            if read.part == "held_out":
                continue  # its source is the training split's
            group, _, split = read.key.partition(".")
            self._pin(read.source, resolved["data"][group][split])
        return Recipe.model_validate(resolved)

    def _pin(self, source: DataSource, resolved: dict[str, Any]) -> None:
        """Write the commits of a source, and of those mixed into it, into its settings."""
        if find_format(source) == "hub":
            resolved["revision"] = self.commit("dataset", source.path, source.revision)
        for mixed, inner in zip(source.mix_in, resolved["mix_in"], strict=True):
            self._pin(mixed, inner)

    def commit(self, kind: str, name: str, revision: str | None) -> str:
        """The commit of a hub model or data set; asked for once a run."""
        if revision is not None and _COMMIT.match(revision):
            return revision
        key = f"{kind}:{name}@{revision or 'main'}"
        if key not in self.known:
            self._remember(key, _ask_hub(kind, name, revision))
        return self.known[key]

    def version(self, registry: Registry, reference: str) -> str:
        """The exact `name@version` of a registry reference; `@latest` and aliases stay where they were first."""
        key = f"registry:{reference}"
        if key not in self.known:
            self._remember(key, registry.resolve(reference).reference)
        return self.known[key]

    def data_digest(self, source: DataSource) -> str | None:
        """SHA-256 of a split as `digest_source` gives it; a hub data set's rows are read once a run, since its commit never changes.

        Returns:
            None where it cannot be read.
        """
        if source.mix_in:
            own = source.model_copy(update={"mix_in": []})
            digests = [self.data_digest(part) for part in (own, *source.mix_in)]
            lines = "".join(f"{digest}\n" for digest in digests)
            return None if None in digests else hashlib.sha256(lines.encode()).hexdigest()
        if find_format(source) != "hub" or source.revision is None or not _COMMIT.match(source.revision):
            return digest_source(source)
        key = f"rows:{source.path}@{source.revision}:{source.config}:{source.split}"
        if key not in self.known:
            digest = digest_source(source)
            if digest is None:
                return None
            self._remember(key, digest)
        return self.known[key]

    def _remember(self, key: str, value: str) -> None:
        self.known[key] = value
        if self.remember:
            write_atomic(self.path, json.dumps(self.known, indent=1, sort_keys=True).encode())


def read_pins(path: Path) -> dict[str, str]:
    """The pins that a run has written; none where it has not.

    Raises:
        UsageError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(
            f"{path} is damaged: it does not hold the run's pinned versions",
            "Delete it: the names are then pinned anew, to what they mean now.",
        ) from error


def needed_references(workspace: Path) -> list[str]:
    """Artefacts that the workspace's runs pinned or start from; garbage collection keeps them."""
    references: set[str] = set()
    for path in sorted((workspace / "runs").glob(f"*/{PINS_FILE}")):
        references |= {value for key, value in read_pins(path).items() if key.startswith(REGISTRY_PREFIX)}
    for path in sorted((workspace / "runs").glob(f"*/*/{INPUTS_FILE}")):
        inputs = read_inputs(path.parent)
        if inputs is not None and not (path.parent / DONE_FILE).is_file():
            references |= {model.reference for model in inputs.models() if model.reference}
    root = workspace / "registry"
    return sorted(reference for reference in references if _exists(root, reference))


def _exists(root: Path, reference: str) -> bool:
    name, version = parse_reference(reference)
    return version in artefact_versions(root, name)


def is_hub_model(path: str) -> bool:
    """Whether a model's path is a hub id: `owner/name`, and no such folder."""
    return (
        not path.startswith(REGISTRY_PREFIX) and not Path(path).exists() and _HUB_ID.match(path) is not None
    )


def outside_model(recipe: Recipe, pins: Pins, registry: Registry, path: str) -> ModelInput:
    """A model that no stage of this recipe makes, pinned.

    Raises:
        ModelError: a folder that does not exist or holds no model.
        RegistryError: a reference that does not resolve.
    """
    if path.startswith(REGISTRY_PREFIX):
        artefact = registry.resolve(pins.version(registry, path.removeprefix(REGISTRY_PREFIX)))
        return ModelInput(reference=artefact.reference, digest=artefact.digest)
    if is_hub_model(path):
        wanted = recipe.model.revision if path == recipe.model.path else None
        return ModelInput(path=path, revision=pins.commit("model", path, wanted))
    folder = Path(path)
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        what = "holds no config.json" if folder.is_dir() else "does not exist"
        raise ModelError(
            f"model {path}: the folder {what}",
            "Give a local model folder, a hub id (owner/name), or registry:NAME@VERSION.",
        )
    return ModelInput(path=str(folder.absolute()), digest=folder_signature(folder))


def folder_signature(folder: Path) -> str:
    """A digest of a local model's file names, sizes and times: cheap, and it changes when a file is replaced."""
    stats = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    return digest_of({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})


def _ask_hub(kind: str, name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    api: Any = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        return str(ask(name, revision=revision, timeout=30).sha)
    except hub_errors() as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _unreachable(kind, name, revision, first) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """What asking the hub may raise: refused, offline, a malformed name, or no connection."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The transport's own errors (no connection, time-out) are not OSErrors: their base is the first one here.
    return (HfHubHTTPError.__mro__[1], OSError, HFValidationError)


def _unreachable(kind: str, name: str, revision: str | None, reason: str) -> RLHFError:
    return ModelError(
        f"{kind} {name}{f'@{revision}' if revision else ''}: cannot be resolved on the hub: {reason}",
        "Check the name and the network (and HF_TOKEN for a private one), give a 40-digit commit as revision if it is cached, "
        "or a local folder.",
    )
