"""The same held-out prompts answered by the SFT model and by the PPO model, side by side, with their scores."""

import json
from typing import cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.durable import write_atomic
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.measures import evaluation_metrics
from rlhf.ppo.noise import EVALUATION_STREAM
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.trainer import PPOTrainer
from rlhf.stages.context import StageContext

SAMPLES_FILE = "samples.json"
NUM_SHOWN = 6


def write_samples(
    context: StageContext,
    trainer: PPOTrainer,
    prompts: list[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    reference: nn.Module,
) -> dict[str, float]:
    """Sample both models with the same noise, write a few pairs for people to read, return both models' metrics."""
    section = trainer.section
    batch = [(prompt, sample) for prompt in prompts for sample in range(section.eval_samples_per_prompt)]
    actor = cast(ActorCritic, trainer.accelerator.unwrap_model(trainer.model))
    before = ActorCritic(reference, actor.critic, temperature=section.sampling.temperature)
    rollouts = {
        name: trainer.collector.collect(
            model, batch, 0, stream=EVALUATION_STREAM, temperature=section.sampling.temperature
        )
        for name, model in (("sft", before), ("ppo", actor))
    }
    if trainer.accelerator.is_main_process:
        shown = _shown(rollouts, tokenizer, prompts, section.eval_samples_per_prompt)
        content = json.dumps(shown, ensure_ascii=False, indent=1)
        write_atomic(context.folder / SAMPLES_FILE, content.encode())
    metrics = evaluation_metrics(rollouts["ppo"])
    return metrics | {
        name.replace("eval/", "eval/sft_"): value
        for name, value in evaluation_metrics(rollouts["sft"]).items()
    }


def _shown(
    rollouts: dict[str, Rollout], tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], samples: int
) -> list[dict[str, object]]:
    shown: list[dict[str, object]] = []
    for number, prompt in enumerate(prompts[:NUM_SHOWN]):
        entry: dict[str, object] = {"prompt": prompt.text}
        for name, rollout in rollouts.items():
            episode = rollout.episodes[number * samples]
            entry[name] = tokenizer.decode(episode.response_ids, skip_special_tokens=True)
            entry[f"{name}_score"] = episode.score
        shown.append(entry)
    return shown
