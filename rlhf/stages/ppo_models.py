"""PPO's trained models: policy, critic and the reference, loaded, proved, rounded where asked, and prepared."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.models.compiling import compile_layers
from rlhf.models.embeddings import fit_embeddings
from rlhf.models.load import check_plain_logits, disable_dropout, load_causal_lm
from rlhf.models.tokenizer import stop_token_ids
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.ema import PolicyEMA
from rlhf.ppo.sharding import prepare
from rlhf.recipe.ppo import PPOSection
from rlhf.stages.context import StageContext
from rlhf.stages.reward_sources import Rewards, load_critic


@dataclass(frozen=True)
class PPOModels:
    """What PPO trains, and what it is measured from.

    Attributes:
        model: the prepared actor-critic.
        policy: its policy, as it was before.
        optimizer: prepared; each group of parameters has a `role`.
        reference: frozen, on the device or in the CPU's memory (`offload_frozen`).
        ema: the policy's moving average, where the recipe asks for one.
        stop_ids: tokens that end a response.
    """

    model: nn.Module
    policy: nn.Module
    optimizer: torch.optim.Optimizer
    reference: nn.Module
    ema: PolicyEMA | None
    stop_ids: tuple[int, ...]


def build_models(
    context: StageContext,
    section: PPOSection,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    rewards: Rewards,
) -> PPOModels:
    """Policy and reference from the SFT model, critic from the reward model; dropout off in all of them."""
    policy_input = context.inputs.policy
    assert policy_input is not None
    seed = context.recipe.stage_seed("ppo")
    source, join = context.source(policy_input), rewards.backbone.join
    policy = join(load_causal_lm(source, lora=context.recipe.model.lora, seed=seed), source, "policy")
    reference = join(load_causal_lm(source, trainable=False), source, "reference")
    critic = load_critic(context, rewards, tokenizer)
    for model in (policy, reference, critic):
        fit_embeddings(model, tokenizer, seed=seed)
        disable_dropout(model)
    check_plain_logits(policy)
    print(rewards.backbone, flush=True)
    home = torch.device("cpu") if section.offload_frozen else accelerator.device
    reference.requires_grad_(False).to(home).eval()
    if section.gradient_checkpointing:
        for model in (policy, critic):
            cast(Any, model).gradient_checkpointing_enable()
    if section.compile:
        for model in (policy, reference, critic):
            compile_layers(model)
    actor_critic = ActorCritic(policy, critic, temperature=section.sampling.temperature)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in policy.parameters() if p.requires_grad], "role": "policy"},
            {"params": [p for p in critic.parameters() if p.requires_grad], "role": "critic"},
        ],
        lr=section.learning_rate,
        eps=section.adam_eps,
        weight_decay=section.weight_decay,
        fused=True,  # one pass over weights and moments
    )
    optimizer.register_load_state_dict_post_hook(_as_built)
    stop_ids = stop_token_ids(tokenizer, getattr(policy.generation_config, "eos_token_id", None))
    model, prepared = prepare(accelerator, actor_critic, optimizer)
    # After prepare, which moves the weights: the average lies where they do.
    ema = None if section.ema_decay is None else PolicyEMA(policy, decay=section.ema_decay)
    return PPOModels(model, policy, prepared, reference, ema, stop_ids)


def _as_built(optimizer: torch.optim.Optimizer) -> None:
    """After a checkpoint, which may come from another device or from before all were fused."""
    for group in optimizer.param_groups:
        group["fused"] = True
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state:
                state["step"] = state["step"].to(parameter.device)
