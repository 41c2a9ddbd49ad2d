"""What every runner is given: recipe, inputs, folders, registry, and the models that its inputs name."""

import hashlib
import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

import rlhf
from rlhf.checkpoint import Checkpoints
from rlhf.errors import ModelError, UsageError
from rlhf.models.forward import score_token_lists
from rlhf.models.load import ModelSource
from rlhf.models.quantized import Quantization
from rlhf.models.tokenizer import chat_template_digest, load_tokenizer, tokenizer_digest
from rlhf.recipe import Recipe, Stage
from rlhf.registry import Artefact, ManifestDraft, Parent, Registry
from rlhf.registry.manifest import Probe
from rlhf.stages.inputs import INPUTS_FILE, RECIPE_FILE, ModelInput, StageInputs, registry_folder

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")


@dataclass(frozen=True)
class StageContext:
    """One stage of one run.

    Attributes:
        recipe: the resolved recipe.
        inputs: exact models and data.
        run_folder: `<workspace>/runs/<run>`.
    """

    recipe: Recipe
    inputs: StageInputs
    run_folder: Path
    _verified: dict[str, Artefact] = field(
        default_factory=dict[str, Artefact], init=False, repr=False, compare=False
    )

    @classmethod
    def read(cls, run_folder: Path, stage: Stage) -> "StageContext":
        """Read what the pipeline wrote for this stage."""
        recipe = Recipe.model_validate_json((run_folder / RECIPE_FILE).read_text(encoding="utf-8"))
        inputs = StageInputs.model_validate_json(
            (run_folder / stage / INPUTS_FILE).read_text(encoding="utf-8")
        )
        return cls(recipe, inputs, run_folder)

    @property
    def stage(self) -> Stage:
        """The stage's name."""
        return self.inputs.stage

    @property
    def folder(self) -> Path:
        """The stage's own folder."""
        return self.run_folder / self.stage

    @property
    def registry(self) -> Registry:
        """The workspace's registry."""
        return Registry(registry_folder(self.recipe))

    @property
    def checkpoints(self) -> Checkpoints:
        """The stage's checkpoints."""
        return Checkpoints(self.folder / "checkpoints")

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0; from the launcher's environment, since the trainers build Accelerate's state."""
        return int(os.environ.get("RANK", "0")) == 0

    @property
    def use_bf16(self) -> bool:
        """bfloat16 autocast: as the recipe says, or wherever a GPU has it."""
        wanted = self.recipe.launch.mixed_precision
        return wanted == "bf16" or (
            wanted == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        )

    @property
    def scored_by(self) -> str:
        """What PPO's scores come from, for records: the reward model, or each source with its name."""
        inputs = self.inputs
        if inputs.reward_model is not None:
            return str(inputs.reward_model)
        assert self.recipe.ppo is not None
        named = [
            (source.name, inputs.reward_models.get(source.name) or source.function or source.url)
            for source in self.recipe.ppo.rewards
        ]
        return ", ".join(f"{name}={origin}" for name, origin in named)

    def source(self, model: ModelInput) -> ModelSource:
        """Where a pinned model's weights lie; an artefact is proved first, see `artefact`."""
        section = self.recipe.model
        artefact = None if model.reference is None else self.artefact(model.reference)
        place = model.path if artefact is None else str(artefact.path)
        assert place is not None
        return ModelSource(
            place,
            model.revision if artefact is None else None,
            section.trust_remote_code,
            section.attn_implementation,
            self._quantization(model, artefact),
        )

    def _kernels(self) -> tuple[str, ...]:
        policy = self.inputs.policy
        return () if policy is None or self.source(policy).quantization is None else ("bitsandbytes",)

    def _quantization(self, model: ModelInput, artefact: Artefact | None) -> Quantization | None:
        """How a model's base is held: an adapter's as it was trained, else the policy's as the recipe says.

        Raises:
            UsageError: the policy is an adapter on a base that was held otherwise than the recipe says.
        """
        lora, is_policy = self.recipe.model.lora, model == self.inputs.policy
        wanted = lora.quantize if lora is not None and is_policy else None
        base = None if artefact is None else artefact.manifest.base
        if base is not None and lora is not None and is_policy and base.quantization != wanted:
            raise UsageError(
                f"model.lora.quantize: {_yaml(wanted)}, and {model} is an adapter that was trained on its base in "
                f"{_yaml(base.quantization)}: it would start as another model",
                f"Set model.lora.quantize: {_yaml(base.quantization)}, or train the SFT stage anew.",
            )
        kind = wanted if base is None else base.quantization
        return (
            None if kind is None else Quantization(kind, torch.bfloat16 if self.use_bf16 else torch.float32)
        )

    def artefact(self, reference: str) -> Artefact:
        """An artefact, every byte of it and of a local base under it proved; once a process, since weights are large.

        Raises:
            RegistryError, ModelError: something is not as published.
        """
        if reference not in self._verified:
            artefact = self.registry.open_verified(reference)
            check_base(artefact)
            self._verified[reference] = artefact
        return self._verified[reference]

    def tokenizer(self, model: ModelInput) -> PreTrainedTokenizerBase:
        """The model's tokenizer, prepared for all stages; the recipe's chat template replaces the starting model's."""
        source = self.source(model)
        is_start = model.reference is None and model == self.inputs.policy
        template = self.recipe.model.chat_template if is_start else None
        return load_tokenizer(
            source.path,
            revision=source.revision,
            chat_template_file=template,
            trust_remote_code=source.trust_remote_code,
        )

    def draft(self, tokenizer: PreTrainedTokenizerBase, metrics: dict[str, float]) -> ManifestDraft:
        """The manifest's part that every stage fills the same way."""
        inputs = self.inputs
        named = [("policy", inputs.policy), ("reward_model", inputs.reward_model)]
        gold = None if self.recipe.ppo is None else self.recipe.ppo.evaluation.gold
        named += [
            ("gold" if gold is not None and name == gold.name else "reward_model", model)
            for name, model in inputs.reward_models.items()
        ]
        return ManifestDraft(
            name=self.recipe.artefact_name(self.stage),
            stage=self.stage,
            kind="reward_model" if self.stage == "reward" else "causal_lm",
            parents=[
                Parent(role=role, reference=model.reference, digest=model.digest)
                for role, model in named
                if model is not None and model.reference is not None and model.digest is not None
            ],
            data=inputs.data,
            recipe_digest=self.recipe.digest(),
            inputs_digest=inputs.digest,
            tokenizer_digest=tokenizer_digest(tokenizer),
            chat_template_digest=chat_template_digest(tokenizer),
            code_version=rlhf.__version__,
            environment={package: version(package) for package in (*PACKAGES, *self._kernels())},
            metrics=metrics,
        )


def published_source(artefact: Artefact, *, trust_remote_code: bool = False) -> ModelSource:
    """Where a published model's weights lie; an adapter's base is held as it was while the adapter was measured."""
    base = artefact.manifest.base
    held = None if base is None or base.quantization is None else Quantization(base.quantization)
    return ModelSource(str(artefact.path), trust_remote_code=trust_remote_code, quantization=held)


def _yaml(kind: str | None) -> str:
    return "null" if kind is None else kind


def check_base(artefact: Artefact) -> None:
    """Prove that the local folder under an adapter holds the weights that it was trained on; a hub commit proves itself.

    Raises:
        ModelError: the folder is gone, or holds other weights.
    """
    base = artefact.manifest.base
    if base is None or base.revision is not None:
        return
    if weights_digest(Path(base.path)) != base.digest:
        raise ModelError(
            f"{artefact.reference} is an adapter on {base.path}, whose weights are not those it was trained on",
            "Put the base model back in that folder; an adapter means nothing on another one.",
        )


def weights_digest(folder: Path) -> str:
    """SHA-256 over a local model's weight files, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_probe(model: nn.Module, probe: Probe, reference: str) -> None:
    """Compare a loaded reward model's scores with those published for the same tokens.

    Raises:
        ModelError: they differ: a head that was not saved, not loaded, or newly initialised.
    """
    scores = score_token_lists(model, probe.token_ids, batch_size=8)
    worst = max((abs(a - b) for a, b in zip(scores, probe.scores, strict=True)), default=0.0)
    if worst > probe.tolerance:
        raise ModelError(
            f"{reference}: its scores on the published probe differ by {worst:.3g} (at most {probe.tolerance:.3g} is rounding): "
            "the loaded head is not the one that was published",
            f"Run rlhf registry verify {reference}; then publish it again with rlhf run RECIPE --stage reward --fresh.",
        )
