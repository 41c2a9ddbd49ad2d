"""The rollout engine of a PPO run, as its recipe and its processes ask for it."""

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.ppo.engines.base import GenerationEngine
from rlhf.ppo.engines.choice import choose_engine
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.sharding import is_sharded, precision
from rlhf.recipe.ppo import PPOSection


def rollout_engine(
    section: PPOSection, tokenizer: PreTrainedTokenizerBase, policy: nn.Module, accelerator: Accelerator
) -> GenerationEngine:
    """The recipe's rollout engine; it says which it is."""
    stop = section.sampling.stop
    stop_texts = StopTexts(tokenizer, stop) if stop else None
    max_length = section.max_prompt_length + section.sampling.max_new_tokens

    def start_vllm() -> GenerationEngine:
        from rlhf.ppo.engines.vllm import VLLMEngine  # brings TRL, which the others do without

        return VLLMEngine(
            policy,
            section.sampling.vllm_settings,
            accelerator=accelerator,
            tokenizer=tokenizer,
            num_slots=section.rollout_batch_size,
            max_length=max_length,
            stop_texts=stop_texts,
        )

    engine, line = choose_engine(
        section.sampling,
        policy,
        batch_size=section.rollout_batch_size,
        max_length=max_length,
        dtype=torch.bfloat16 if precision(accelerator) == "bf16" else torch.float32,
        stop_texts=stop_texts,
        is_sharded=is_sharded(accelerator),
        on_gpu=accelerator.device.type == "cuda",
        compiled=section.compile,
        start_vllm=start_vllm,
    )
    accelerator.print(line, flush=True)
    return engine
