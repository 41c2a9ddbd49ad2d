"""From a trained model to an artefact in the registry; rank 0 alone, after every rank has helped to gather weights."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from transformers import PreTrainedTokenizerBase

from rlhf.models.load import ModelSource
from rlhf.registry import Artefact, Base, ManifestDraft
from rlhf.registry.manifest import Probe, RewardStats
from rlhf.stages.context import StageContext, weights_digest
from rlhf.stages.inputs import DONE_FILE


@dataclass(frozen=True)
class Described:
    """What a manifest says of a reward model: held-out metrics, and how its scores lie."""

    metrics: dict[str, float]
    reward_stats: RewardStats | None
    probe: Probe


def publish(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    save: Callable[[Path], None],
    *,
    metrics: dict[str, float] | None = None,
    describe: Callable[[Path], Described] | None = None,
) -> None:
    """Save into a staging folder and publish it.

    Args:
        context: the stage.
        tokenizer: saved beside the weights.
        save: writes the weights into a folder; called on every rank, since sharded weights are gathered by all.
        metrics: held-out metrics; text and what is not finite is left out of the manifest.
        describe: scores the reward model that was saved in a folder; called on rank 0 alone.
    """
    name = context.recipe.artefact_name(context.stage)
    staged = context.registry.staging(name) if context.is_main else context.folder / "discarded"
    save(staged)
    waiting = _patient_group()
    if context.is_main:
        _publish(context, tokenizer, staged, metrics or {}, describe)
    if waiting is not None:
        torch.distributed.barrier(waiting)


def _patient_group() -> torch.distributed.ProcessGroup | None:
    """In which the others wait for the first process: scoring and copying may take longer than a step's exchange may.

    One that dies meanwhile ends the others, as always.
    """
    if not torch.distributed.is_initialized():
        return None
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=7))
    return cast(torch.distributed.ProcessGroup, group)


def _publish(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    staged: Path,
    metrics: dict[str, float],
    describe: Callable[[Path], Described] | None,
) -> None:
    tokenizer.save_pretrained(str(staged))
    said: dict[str, Any] = {"base": _base(context, staged)}
    if describe is not None:
        described = describe(staged)
        metrics = described.metrics
        said |= {"reward_stats": described.reward_stats, "probe": described.probe}
    draft = context.draft(tokenizer, finite(metrics)).model_copy(update=said)
    artefact = context.registry.publish(staged, ManifestDraft.model_validate(draft.model_dump()))
    record_done(context, artefact)


def record_done(context: StageContext, artefact: Artefact) -> None:
    """Leave the reference where the pipeline looks for it."""
    print(f"published {artefact.reference} in {artefact.path}", flush=True)
    (context.folder / DONE_FILE).write_text(f'{{"reference": "{artefact.reference}"}}\n', encoding="utf-8")


def finite(metrics: dict[str, Any]) -> dict[str, float]:
    """The finite numbers among metrics."""
    kept = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
    return {name: value for name, value in kept.items() if abs(value) < float("inf")}


def _base(context: StageContext, folder: Path) -> Base | None:
    """What a LoRA artefact sits on, by digest: the hub commit, or a hash over a local folder's weights."""
    source = ModelSource(str(folder))
    if not source.is_adapter:
        return None
    base = source.base
    assert context.inputs.policy is not None  # adapters need a base to start from
    quantization = context.source(context.inputs.policy).quantization
    return Base(
        path=base.path,
        revision=base.revision,
        digest=base.revision or weights_digest(Path(base.path)),
        quantization=None if quantization is None else quantization.kind,
    )
