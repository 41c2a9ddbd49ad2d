"""The PPO runner: puts models, data, checkpoints and records around `rlhf.ppo`'s trainer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.models.load import check_plain_logits, disable_dropout, load_causal_lm, load_reward_model
from rlhf.models.tokenizer import stop_token_ids
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.engines.base import GenerationEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.prompts import Prompt, PromptStream
from rlhf.ppo.rewards import ScoreShaping
from rlhf.ppo.rollout import Collector
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.update import Updater
from rlhf.recipe.ppo import PPOSection
from rlhf.registry import Artefact
from rlhf.stages.context import StageContext
from rlhf.stages.examples import prompts
from rlhf.stages.ppo_checkpoints import PPOSink
from rlhf.stages.ppo_samples import write_samples
from rlhf.stages.publish import publish


def run(context: StageContext) -> bool:
    """Train and publish; False when a signal stopped it after saving."""
    section = context.recipe.ppo
    assert section is not None
    seed = context.recipe.stage_seed("ppo")
    accelerator = Accelerator(
        mixed_precision="bf16" if context.use_bf16 else "no",
        cpu=not torch.cuda.is_available(),
        log_with=list(context.recipe.trackers) or None,
        project_dir=str(context.folder),
    )
    set_seed(seed)
    policy_input = context.inputs.policy
    assert policy_input is not None
    tokenizer = context.tokenizer(policy_input)
    training, held_out = _prompts(context, tokenizer, section)
    parts = _models(context, section, tokenizer, accelerator)
    collector = Collector(
        section,
        accelerator=accelerator,
        engine=_engine(section),
        reference=parts.reference,
        reward_model=parts.reward_model,
        stop_ids=parts.stop_ids,
        seed=seed,
    )
    sink = PPOSink(context, section, accelerator, tokenizer)
    trainer = PPOTrainer(
        section,
        accelerator=accelerator,
        model=parts.model,
        collector=collector,
        updater=Updater(
            section, accelerator=accelerator, model=parts.model, optimizer=parts.optimizer, seed=seed
        ),
        prompts=PromptStream(training, seed=seed, num_per_step=section.global_batch_size),
        shaping=_shaping(section, parts.reward_artefact),
        sink=sink,
        eval_prompts=held_out,
    )
    sink.resume(trainer)
    if not trainer.train():
        return False
    model = cast(ActorCritic, accelerator.unwrap_model(parts.model))
    metrics = sink.last_evaluation
    if held_out:
        metrics |= write_samples(context, trainer, held_out, tokenizer, reference=parts.reference)
    publish(context, tokenizer, metrics, lambda folder: _save(accelerator, model, tokenizer, folder))
    accelerator.end_training()
    return True


@dataclass(frozen=True)
class _Parts:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    reference: nn.Module
    reward_model: nn.Module
    reward_artefact: Artefact | None
    stop_ids: tuple[int, ...]


def _models(
    context: StageContext, section: PPOSection, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator
) -> _Parts:
    """Policy and reference from the SFT model, critic from the reward model; dropout off in all of them."""
    policy_input, reward_input = context.inputs.policy, context.inputs.reward_model
    assert policy_input is not None
    assert reward_input is not None
    lora, seed = context.recipe.model.lora, context.recipe.stage_seed("ppo")
    reward_model, reward_artefact = context.reward_model(tokenizer)
    policy = load_causal_lm(context.source(policy_input), lora=lora, seed=seed)
    reference = load_causal_lm(context.source(policy_input), trainable=False)
    critic = load_reward_model(context.source(reward_input), trainable=True)
    for model in (policy, reference, critic, reward_model):
        disable_dropout(model)
    check_plain_logits(policy)
    for model in (reference, reward_model):
        model.requires_grad_(False).to(accelerator.device).eval()
    if section.gradient_checkpointing:
        for model in (policy, critic):
            cast(Any, model).gradient_checkpointing_enable()
    actor_critic = ActorCritic(policy, critic, temperature=section.sampling.temperature)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in policy.parameters() if p.requires_grad], "role": "policy"},
            {"params": [p for p in critic.parameters() if p.requires_grad], "role": "critic"},
        ],
        lr=section.learning_rate,
        eps=section.adam_eps,
        weight_decay=section.weight_decay,
    )
    stop_ids = stop_token_ids(tokenizer, getattr(policy.generation_config, "eos_token_id", None))
    model, prepared = accelerator.prepare(actor_critic, optimizer)
    return _Parts(model, prepared, reference, reward_model, reward_artefact, stop_ids)


def _engine(section: PPOSection) -> GenerationEngine:
    """The recipe's rollout engine; `auto` says which it takes."""
    if section.sampling.engine == "auto":
        print("rollout engine: hf", flush=True)
    return HFEngine()


def _prompts(
    context: StageContext, tokenizer: PreTrainedTokenizerBase, section: PPOSection
) -> tuple[list[Prompt], list[Prompt]]:
    splits, chat = context.recipe.splits("ppo"), context.recipe.data.chat
    training = prompts(tokenizer, splits.train, chat=chat, max_prompt_length=section.max_prompt_length)
    if splits.eval is None:
        return training, []
    return training, prompts(tokenizer, splits.eval, chat=chat, max_prompt_length=section.max_prompt_length)


def _shaping(section: PPOSection, reward_artefact: Artefact | None) -> ScoreShaping:
    stats = None if reward_artefact is None else reward_artefact.manifest.reward_stats
    return ScoreShaping(
        section.shaping,
        reference_mean=None if stats is None else stats.mean,
        reference_std=None if stats is None else stats.std,
    )


def _save(
    accelerator: Accelerator, model: ActorCritic, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """The policy as the artefact's model, the critic beside it: both are what a later run would go on from."""
    if not accelerator.is_main_process:
        return
    policy, critic = cast(Any, model.policy), cast(Any, model.critic)
    policy.config.pad_token_id = tokenizer.pad_token_id
    policy.save_pretrained(str(folder))
    critic.save_pretrained(str(folder / "critic"))
    for card in folder.rglob("README.md"):  # PEFT's empty model cards
        card.unlink()
