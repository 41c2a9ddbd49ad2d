"""The recipe's sources of scores, loaded and proved, and what the critic starts from."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UsageError
from rlhf.models.compiling import compile_layers
from rlhf.models.load import disable_dropout, load_reward_model, new_reward_model
from rlhf.models.tokenizer import chat_template_digest, pad_id, tokenizer_digest
from rlhf.ppo.micro_batches import MicroBatches
from rlhf.ppo.scoring import Scorer
from rlhf.ppo.sources.base import Source
from rlhf.ppo.sources.combine import CombinedScorer, Part
from rlhf.ppo.sources.function import FunctionSource
from rlhf.ppo.sources.http import HTTPSource
from rlhf.ppo.sources.model import AsSampled, ModelSource, ThroughText
from rlhf.recipe.rewards import OWN_MODEL, SINGLE, RewardSource
from rlhf.registry.manifest import RewardStats
from rlhf.stages.backbone import Backbone
from rlhf.stages.context import StageContext, check_probe
from rlhf.stages.inputs import ModelInput


@dataclass(frozen=True)
class Rewards:
    """What PPO optimises, and what it is judged by.

    Attributes:
        scorer: the sources' scores as one.
        gold_scorer: the second judge, or None.
        critic_from: the first reward model with the policy's tokenizer and template; None: there is none, and the
            critic starts from the policy.
        reference_mean, reference_std: of the one reward model, as published, for `normalize: reference`.
        backbone: what the reward models joined, for policy, reference and critic to join.
    """

    scorer: Scorer
    gold_scorer: Scorer | None
    critic_from: ModelInput | None
    reference_mean: float | None
    reference_std: float | None
    backbone: Backbone


def build_rewards(
    context: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    micro_batches: MicroBatches,
) -> Rewards:
    """Load every source; one that cannot be what it is published as stops the stage before anything is sampled.

    Args:
        context: PPO's.
        tokenizer: the policy's.
        device: where reward models go.
        micro_batches: of all passes.

    Raises:
        ModelError: a model that cannot be loaded, scores that differ from those of its probe, or a reward model that
            cannot share the backbone as the recipe wants.
        RegistryError: an artefact that is not as published.
        UsageError: a function that is not there, or `normalize` on a model without published statistics.
    """
    section = context.recipe.ppo
    assert section is not None
    loader = _Loader(context, tokenizer, device, micro_batches)
    listed = section.rewards or [RewardSource(name=SINGLE, model=section.reward_model or OWN_MODEL)]
    parts = [loader.part(source) for source in listed]
    gold = section.evaluation.gold
    matching = [loader.given(source) for source in listed if source.name in loader.matching]
    if matching:
        loader.backbone.require(context.source(matching[0]), "reward model that the critic starts from")
    stats = loader.stats(listed[0]) if len(listed) == 1 else None
    return Rewards(
        scorer=CombinedScorer(parts, section.combine),
        gold_scorer=None if gold is None else CombinedScorer([loader.part(gold)]),
        critic_from=matching[0] if matching else None,
        reference_mean=None if stats is None else stats.mean,
        reference_std=None if stats is None else stats.std,
        backbone=loader.backbone,
    )


def load_critic(context: StageContext, rewards: Rewards, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """The critic to be trained: the reward model's copy, or the policy's trunk under a new head as in reward training.

    A value per token needs the policy's own tokens, so a reward model with other ones cannot be the start.
    """
    if rewards.critic_from is not None:
        source = context.source(rewards.critic_from)
        return rewards.backbone.join(load_reward_model(source, trainable=True), source, "critic")
    policy = context.inputs.policy
    assert policy is not None
    print("critic: starts from the policy with a new head: no reward model reads its tokens", flush=True)
    source = context.source(policy)
    critic = new_reward_model(
        source,
        lora=context.recipe.model.lora,
        pad_token_id=pad_id(tokenizer),
        seed=context.recipe.stage_seed("ppo"),
    )
    return rewards.backbone.join(critic, source, "critic")


class _Loader:
    """Loads each model once, however many sources name it; `matching` are the sources with the policy's tokens."""

    def __init__(
        self,
        context: StageContext,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        micro_batches: MicroBatches,
    ) -> None:
        self.context = context
        self.tokenizer = tokenizer
        self.device = device
        self.micro_batches = micro_batches
        self.backbone = Backbone(context)
        self.matching: set[str] = set()
        self._models: dict[ModelInput, nn.Module] = {}

    def part(self, source: RewardSource) -> Part:
        """The source with its weight, and its model's published statistics where it is to be normalised."""
        loaded = self._source(source)
        if not source.normalize:
            return Part(source.name, loaded, source.weight)
        stats = self.stats(source)
        if stats is None or not stats.std:
            raise UsageError(
                f"source {source.name}: normalize needs the mean and standard deviation that the reward model published; "
                f"{source.model} has {'none' if stats is None else f'a standard deviation of {stats.std}'}",
                "Train it with reward.num_reference_samples > 1, or leave normalize out.",
            )
        return Part(source.name, loaded, source.weight, stats.mean, stats.std)

    def given(self, source: RewardSource) -> ModelInput:
        """The source's model as pinned."""
        inputs = self.context.inputs
        single = inputs.reward_model if source.name == SINGLE else None
        return inputs.reward_models[source.name] if single is None else single

    def stats(self, source: RewardSource) -> RewardStats | None:
        """What the source's model published of its scores; None where it has published nothing."""
        if source.model is None:
            return None
        reference = self.given(source).reference
        return None if reference is None else self.context.artefact(reference).manifest.reward_stats

    def _source(self, source: RewardSource) -> Source:
        if source.function is not None:
            return FunctionSource(source.name, source.function, self.tokenizer)
        if source.url is not None:
            return HTTPSource(source, self.tokenizer)
        return self._model_source(source)

    def _model_source(self, source: RewardSource) -> ModelSource:
        given, chat = self.given(source), self.context.recipe.data.chat
        if source.name == SINGLE:
            self.backbone.require(self.context.source(given), "reward model")
        own = self.context.tokenizer(given)
        if _tokens_of(own) == _tokens_of(self.tokenizer):
            self.matching.add(source.name)
            sequences = AsSampled(self.tokenizer, chat=chat)
        else:
            print(f"source {source.name}: has another tokenizer or chat template, scores text", flush=True)
            sequences = ThroughText(source.name, self.tokenizer, own, chat=chat)
        model = self._model(given, source.name)
        section = self.context.recipe.ppo
        assert section is not None
        return ModelSource(
            source.name,
            model,
            sequences,
            batch_size=section.rollout_batch_size,
            micro_batches=self.micro_batches,
            device=self.device,
        )

    def _model(self, given: ModelInput, name: str) -> nn.Module:
        if given not in self._models:
            weights = self.context.source(given)
            model = load_reward_model(weights)
            artefact = None if given.reference is None else self.context.artefact(given.reference)
            if artefact is not None and artefact.manifest.probe is not None:
                check_probe(model, artefact.manifest.probe, artefact.reference)
            model = self.backbone.join(model, weights, f"source {name}")
            disable_dropout(model)
            section = self.context.recipe.ppo
            assert section is not None
            if section.compile:
                compile_layers(model)
            home = torch.device("cpu") if section.offload_frozen else self.device
            model.requires_grad_(False).to(home).eval()
            self._models[given] = model
        return self._models[given]


def _tokens_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    return tokenizer_digest(tokenizer), chat_template_digest(tokenizer)
