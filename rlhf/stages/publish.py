"""From a trained model to an artefact in the registry; rank 0 alone, after every rank has helped to gather weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.models.load import ModelSource
from rlhf.registry import Artefact, Base, ManifestDraft
from rlhf.registry.manifest import Probe, RewardStats
from rlhf.stages.context import StageContext, weights_digest
from rlhf.stages.hf_trainer import CheckpointingTrainer
from rlhf.stages.inputs import DONE_FILE


def publish_trained(
    context: StageContext,
    trainer: CheckpointingTrainer,
    tokenizer: PreTrainedTokenizerBase,
    metrics: dict[str, float],
    *,
    reward_stats: RewardStats | None = None,
    probe: Probe | None = None,
) -> None:
    """Publish what a Trainer holds."""
    publish(context, tokenizer, metrics, trainer.save_weights, reward_stats=reward_stats, probe=probe)


def publish(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    metrics: dict[str, float],
    save: Callable[[Path], None],
    *,
    reward_stats: RewardStats | None = None,
    probe: Probe | None = None,
) -> None:
    """Save into a staging folder and publish it.

    Args:
        context: the stage.
        tokenizer: saved beside the weights.
        metrics: held-out metrics; text and what is not finite is left out of the manifest.
        save: writes the weights into a folder; called on every rank, since sharded weights are gathered by all.
        reward_stats, probe: of a reward model.
    """
    name = context.recipe.artefact_name(context.stage)
    registry = context.registry
    staged = registry.staging(name) if context.is_main else context.folder / "discarded"
    save(staged)
    if not context.is_main:
        return
    tokenizer.save_pretrained(str(staged))
    draft = context.draft(tokenizer, finite(metrics)).model_copy(
        update={"reward_stats": reward_stats, "probe": probe, "base": _base(context, staged)}
    )
    artefact = registry.publish(staged, ManifestDraft.model_validate(draft.model_dump()))
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
