"""One rank of one PPO step on given responses: `sharded_step.py FOLDER`; rank 0 leaves the gradient norm and the weights.

The responses are as long as `LENGTHS` says, one in a micro-batch; what each rank then generates ends at another length.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from rlhf.ppo import exchange
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.engines.graph import GraphEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.episodes import Episode, collate
from rlhf.ppo.sharding import (
    PPOAccelerator,
    is_sharded,
    prepare,
    prepare_accelerator,
    whole_state,
    whole_weights,
)
from rlhf.ppo.update import Updater
from rlhf.recipe.ppo import PPOSection
from rlhf.stages.ending import end_in_order
from rlhf.stages.sharded import let_cpus_shard, prepare_process

LENGTHS = (20, 17, 2, 20)
PROMPT = [5, 6, 7]
SECTION = PPOSection.model_validate(
    {
        "num_steps": 4,
        "global_batch_size": len(LENGTHS),
        "num_minibatches": 1,
        "num_epochs": 2,
        "per_device_batch_size": 1,
        "learning_rate": 0.003,
        "max_grad_norm": 0.05,
        "gradient_checkpointing": True,
        "sampling": {"max_new_tokens": 20},
    }
)


def models() -> ActorCritic:
    """A tied policy and a critic of three layers, the same wherever they are made."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
        num_labels=1,
    )
    torch.manual_seed(3)
    policy = AutoModelForCausalLM.from_config(config)
    critic = AutoModelForSequenceClassification.from_config(config)
    for model in (policy, critic):
        model.gradient_checkpointing_enable()
    return ActorCritic(policy, critic, temperature=1.0)


def episode(model: ActorCritic, index: int, length: int) -> Episode:
    """Made-up answer and score, with what the models say of the answer."""
    response = [(7 * index + 3 * t) % 60 + 2 for t in range(length)]
    ids = torch.tensor([[*PROMPT, *response]])
    with torch.no_grad():
        outputs = model(ids, torch.ones_like(ids).bool(), torch.ones(1, length).bool())
    numbers, values = outputs["logprobs"][0].numpy(), outputs["values"][0].numpy()
    return Episode(index, index, 0, PROMPT, response, numbers, numbers, values, numbers, float(index), "eos")


def main(folder: Path) -> None:
    """Prepare, generate, update, write down."""
    prepare_process()
    exchange.LEAST_BYTES = 0  # several parts
    cpu = os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true"
    PartialState(cpu=cpu)
    let_cpus_shard()
    accelerator = PPOAccelerator(cpu=cpu)
    # A rank and where, or nobody; each has rows for several micro-batches then.
    fails = os.environ.get("OUT_OF_MEMORY")
    section = SECTION.model_copy(update={"per_device_batch_size": 2}) if fails else SECTION
    if bound := os.environ.get("TARGET_KL"):
        section = section.model_copy(update={"target_kl": float(bound), "num_epochs": 3})
    prepare_accelerator(accelerator, section)
    whole = models()
    rollout = collate(
        [episode(whole, index, length) for index, length in enumerate(LENGTHS * (2 if fails else 1))]
    )
    groups = [
        {"params": list(part.parameters()), "role": role}
        for role, part in (("policy", whole.policy), ("critic", whole.critic))
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=SECTION.learning_rate, eps=SECTION.adam_eps, weight_decay=0.0, fused=True
    )
    if fails in (f"{accelerator.process_index} forward", f"{accelerator.process_index} backward"):
        run_out_once(whole, fails.split()[1])
    model, prepared = prepare(accelerator, whole, optimizer)
    inner = cast(ActorCritic, accelerator.unwrap_model(model))
    held = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in inner.parameters())
    tokens = 3 + 9 * accelerator.process_index  # ranks stop at different lengths
    engines = {
        "hf": HFEngine(),
        "graph": GraphEngine(num_slots=2, dtype=torch.float32, copied=is_sharded(accelerator)),
    }
    with whole_weights(accelerator, model):
        before = {name: generate(engine, inner, tokens) for name, engine in engines.items()}
    torch.manual_seed(11)
    mask = rollout.response_mask
    advantages = torch.randn(mask.shape) * mask
    updater = Updater(section, accelerator=accelerator, model=model, optimizer=prepared, seed=5)
    stats = updater.update(rollout, advantages, rollout.values + advantages, 0)
    with whole_weights(accelerator, model):
        state = whole_state(inner)
        after = {name: generate(engine, inner, tokens) for name, engine in engines.items()}
    note = {
        "processes": accelerator.num_processes,
        "wrapper": type(model).__name__,
        "layers": sorted({type(m).__name__ for m in inner.modules() if "DecoderLayer" in type(m).__name__}),
        "held": held,
        "before": before,
        "after": after,
        "norm": stats["policy/grad_norm"],
        "updates": stats["policy/num_updates"],
        "on_device": updater.stepper.decides_on_device,
    }
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(note), encoding="utf-8")
    if accelerator.is_main_process:
        save_file({name: value.clone() for name, value in state.items()}, folder / "after.safetensors")
    end_in_order(0)


def run_out_once(model: ActorCritic, where: str) -> None:
    """Let the first forward pass of training find no memory, or the critic's second backward pass in its middle layer."""
    real, seen = model.forward, list[str]()

    def forward(*args: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and where == "forward" and not seen:
            seen.append("forward")
            raise torch.OutOfMemoryError("planted")
        return real(*args, **named)

    def backward(gradient: torch.Tensor) -> None:
        seen.append("backward")
        if where == "backward" and len(seen) == 2:
            raise torch.OutOfMemoryError("planted")

    cast(Any, model).forward = forward
    cast(Any, model.critic).model.layers[1].mlp.up_proj.weight.register_hook(backward)


def generate(engine: Any, model: ActorCritic, num_tokens: int) -> dict[str, Any]:
    """The policy's likeliest continuation of the prompt, and a sample's log-probabilities."""
    model.eval()
    noise = torch.from_numpy(np.full((1, num_tokens), 0.5, dtype=np.float32))
    greedy, sample = (
        engine.generate(model.policy, [PROMPT], noise, temperature=temperature, stop_ids=(63,))
        for temperature in (0.0, 1.0)
    )
    return {"greedy": greedy.response_ids[0].tolist(), "logprobs": sample.logprobs[0].tolist()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
