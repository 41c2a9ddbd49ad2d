"""An adapter of the registry as a plain folder of whole weights: `rlhf export --merge`."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.durable import new_folder, require_disk
from rlhf.errors import ModelError
from rlhf.models.load import ADAPTER_CONFIG, ModelSource
from rlhf.models.merge import Kind, load, merge, outputs
from rlhf.models.tokenizer import load_tokenizer
from rlhf.registry import Artefact
from rlhf.stages.context import check_base, check_probe, published_source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXPORT_FILE = "export.json"
_WEIGHTS = (".safetensors", ".md")


@dataclass(frozen=True)
class Exported:
    """What was compared on the way.

    Attributes:
        difference: of the merged float32 weights' outputs from the adapter's, largest absolute.
        rounded: of the saved weights' outputs, which are in the wanted precision.
        scale: the largest output.
    """

    difference: float
    rounded: float
    scale: float


def export_merged(artefact: Artefact, folder: Path, *, dtype: str, trust_remote_code: bool) -> Exported:
    """Merge an artefact's adapter into its base and write whole weights, tokenizer and chat template.

    The critic beside a PPO policy is left out. The base and the artefact are only read.

    Args:
        artefact: an adapter, proved (see `Registry.open_verified`).
        folder: appears whole or not at all.
        dtype: of the saved weights, one of `DTYPES`; merging is in float32.
        trust_remote_code: run Python code that the base's repository brings.

    Raises:
        UsageError: the folder exists or cannot be written, or the disk has no room.
        ModelError: the base is not the one that the adapter was trained on, merged and adapter differ, a reward model's
            scores are not as published, or what was written does not read back.
    """
    manifest = artefact.manifest
    check_base(artefact)
    with new_folder(folder) as beside:
        source = published_source(artefact, trust_remote_code=trust_remote_code)
        merged = merge(source, manifest.kind, load_tokenizer(artefact.path))
        if manifest.probe is not None:
            check_probe(merged.model, manifest.probe, artefact.reference)
        model = merged.model.to(DTYPES[dtype])  # pyright: ignore[reportArgumentType]  # transformers wraps `to`
        require_disk(
            folder, sum(p.numel() * p.element_size() for p in model.parameters()), "the merged model"
        )
        _copy_rest(artefact, beside)
        model.save_pretrained(str(beside))
        rounded = _read_back(model, beside, manifest.kind, trust_remote_code) - merged.outputs
        exported = Exported(merged.difference, float(rounded.abs().max()), float(merged.outputs.abs().max()))
        _write_origin(artefact, beside, dtype, exported)
    return exported


def _copy_rest(artefact: Artefact, folder: Path) -> None:
    """Tokenizer and chat template, as they are; neither weights nor what describes the adapter."""
    for name in artefact.manifest.files:
        if "/" not in name and name != ADAPTER_CONFIG and not name.endswith(_WEIGHTS):
            shutil.copyfile(artefact.path / name, folder / name)


def _read_back(model: PreTrainedModel, folder: Path, kind: Kind, trust_remote_code: bool) -> Tensor:
    """What the written folder says, once each of its weights is proved to be the one in memory."""
    written = load(ModelSource(str(folder), trust_remote_code=trust_remote_code), kind)
    wrong = sorted(_unequal(written.state_dict(), model.state_dict()))
    if wrong:
        raise ModelError(
            f"{folder.name}: {len(wrong)} weight(s) do not read back as they were merged: {', '.join(wrong[:5])}",
            "float16 holds nothing above 65504: take bfloat16 or float32.",
        )
    return outputs(written, kind)


def _unequal(written: dict[str, Tensor], merged: dict[str, Tensor]) -> Iterable[str]:
    yield from written.keys() ^ merged.keys()
    for name in written.keys() & merged.keys():
        value = merged[name].float()
        if not (torch.isfinite(value).all() and torch.equal(written[name].float(), value)):
            yield name


def _write_origin(artefact: Artefact, folder: Path, dtype: str, exported: Exported) -> None:
    base = artefact.manifest.base
    origin = {
        "merged_from": artefact.reference,
        "digest": artefact.digest,
        "base": None if base is None else base.model_dump(),
        "dtype": dtype,
        "largest_output": exported.scale,
        "largest_difference_float32": exported.difference,
        "largest_difference_as_saved": exported.rounded,
    }
    (folder / EXPORT_FILE).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
