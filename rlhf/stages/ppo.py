"""The PPO runner: puts models, data, checkpoints and records around `rlhf.ppo`'s trainer."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs, set_seed
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UsageError
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.evaluation import Evaluator
from rlhf.ppo.micro_batches import MicroBatches
from rlhf.ppo.prompts import Prompt, PromptStream
from rlhf.ppo.ptx import PTX, SFTRow
from rlhf.ppo.replay import RecordedRollouts, ReplayCollector
from rlhf.ppo.rewards import ScoreShaping
from rlhf.ppo.rollout import Collector
from rlhf.ppo.sharding import (
    PPOAccelerator,
    is_sharded,
    precision,
    prepare_accelerator,
    whole_state,
    whole_weights,
)
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.update import Updater
from rlhf.ppo.watch import Watch
from rlhf.recipe.ppo import PPOSection
from rlhf.stages.context import StageContext
from rlhf.stages.ppo_checkpoints import PPOSink
from rlhf.stages.ppo_models import build_models
from rlhf.stages.ppo_samples import write_samples
from rlhf.stages.ptx_rule import ptx_section
from rlhf.stages.publish import publish
from rlhf.stages.reward_sources import build_rewards
from rlhf.stages.rollout_engine import rollout_engine
from rlhf.stages.sharded import let_cpus_shard, prepare_process, release_at_once
from rlhf.stages.tokens.examples import demonstrations
from rlhf.stages.tokens.prompts import prompts
from rlhf.stages.tokens.rows import DEMONSTRATIONS, TokenRows
from rlhf.stages.tokens.splits import stage_split, token_folder


def run(context: StageContext) -> bool:
    """Train and publish; False when a signal stopped it after saving."""
    section = context.recipe.ppo
    assert section is not None
    accelerator = _accelerator(context, section)
    set_seed(context.recipe.stage_seed("ppo"))
    policy_input = context.inputs.policy
    assert policy_input is not None
    tokenizer = context.tokenizer(policy_input)
    trainer, sink = _trainer(context, section, tokenizer, accelerator)
    sink.resume(trainer)
    if not sink.train(trainer):
        return False
    published = trainer.selection.published
    if published is not None and accelerator.is_main_process:
        write_samples(context.folder, step=published.step)
    with trainer.published_weights(), whole_weights(accelerator, trainer.model):
        publish(
            context,
            tokenizer,
            lambda folder: _save(accelerator, trainer.model, tokenizer, folder),
            metrics=trainer.published_metrics(),
        )
    accelerator.wait_for_everyone()  # the first one publishes
    # `end_training` would end the process group too, before what still uses it.
    for tracker in accelerator.trackers:
        tracker.finish()
    return True


def _accelerator(context: StageContext, section: PPOSection) -> Accelerator:
    prepare_process(context.recipe.launch)
    # Accelerate takes DeepSpeed from the environment only where it is not told that this is a CPU.
    on_cpu = not torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true"
    group = InitProcessGroupKwargs(timeout=_patience(section))
    PartialState(cpu=on_cpu, **group.to_kwargs())
    let_cpus_shard()
    accelerator = PPOAccelerator(
        mixed_precision="bf16" if context.use_bf16 else "no",
        cpu=on_cpu,
        log_with=list(context.recipe.trackers) or None,
        project_dir=str(context.folder),
        kwargs_handlers=[group],
    )
    release_at_once(accelerator)
    prepare_accelerator(accelerator, section)
    if section.dtype == "bfloat16" and precision(accelerator) != "bf16":
        raise UsageError(
            "ppo.dtype: bfloat16 needs bfloat16 autocast, and this device does not take it by itself",
            "Set launch.mixed_precision: bf16, or ppo.dtype: float32.",
        )
    return accelerator


def _trainer(
    context: StageContext,
    section: PPOSection,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
) -> tuple[PPOTrainer, PPOSink]:
    seed = context.recipe.stage_seed("ppo")
    training, held_out = _prompts(context, tokenizer, section)
    micro_batches = MicroBatches(section)
    rewards = build_rewards(context, tokenizer, accelerator.device, micro_batches)
    parts = build_models(context, section, tokenizer, accelerator, rewards)
    updater = Updater(
        section,
        accelerator=accelerator,
        model=parts.model,
        optimizer=parts.optimizer,
        seed=seed,
        micro_batches=micro_batches,
        ptx=_ptx(context, section, tokenizer, accelerator),
    )
    collector = Collector(
        section,
        accelerator=accelerator,
        engine=rollout_engine(section, tokenizer, parts.policy, accelerator),
        reference=parts.reference,
        scorer=rewards.scorer,
        stop_ids=parts.stop_ids,
        seed=seed,
        micro_batches=micro_batches,
    )
    evaluator = Evaluator(
        section,
        accelerator=accelerator,
        collector=collector,
        reference=parts.reference,
        prompts=held_out,
        gold=rewards.gold_scorer,
    )
    sink = PPOSink(context, section, accelerator, tokenizer)
    trainer = PPOTrainer(
        section,
        accelerator=accelerator,
        model=parts.model,
        collector=_replayed(section, collector),
        updater=updater,
        prompts=PromptStream(
            training,
            seed=seed,
            num_per_step=section.global_batch_size,
            samples_per_prompt=section.sampling.samples_per_prompt,
        ),
        shaping=ScoreShaping(
            section.shaping,
            reference_mean=rewards.reference_mean,
            reference_std=rewards.reference_std,
        ),
        sink=sink,
        watch=Watch(
            section.watch,
            critic_warmup_steps=section.critic_warmup_steps,
            log=lambda line: accelerator.print(line, flush=True),
            newest_checkpoint=lambda: _newest(context),
        ),
        evaluator=evaluator if held_out else None,
        ema=parts.ema,
    )
    return trainer, sink


def _patience(section: PPOSection) -> timedelta:
    """How long a process waits for another: NCCL's 10 minutes would end it while that one asks a slow service again."""
    judges = [*section.rewards, section.evaluation.gold]
    waits = [
        (judge.retries + 1) * judge.timeout_seconds + judge.backoff_seconds * (2**judge.retries - 1)
        for judge in judges
        if judge is not None and judge.url is not None
    ]
    return timedelta(minutes=30, seconds=sum(waits))


def _newest(context: StageContext) -> str | None:
    newest = context.checkpoints.newest()
    return None if newest is None else str(newest.path)


def _replayed(section: PPOSection, collector: Collector) -> Collector | ReplayCollector:
    replay = section.sampling.replay
    if replay is None:
        return collector
    print(f"training steps are taken from {replay}", flush=True)
    return ReplayCollector(collector, RecordedRollouts(Path(replay)), section)


def _ptx(
    context: StageContext,
    section: PPOSection,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
) -> PTX | None:
    """The SFT split for PPO-ptx, by the SFT stage's own length rule where there is one."""
    split = stage_split(context, "sft.train")  # read where ptx_coef asks for it
    if split is None:
        return None
    examples = demonstrations(
        tokenizer, split, ptx_section(context.recipe), cache=token_folder(context.recipe)
    )
    print(f"ptx: {examples}", flush=True)
    return PTX(
        TokenRows(examples.dataset, _ptx_row),
        section,
        accelerator=accelerator,
        seed=context.recipe.stage_seed("ppo"),
    )


def _ptx_row(values: dict[str, Any]) -> SFTRow:
    row = DEMONSTRATIONS.row(values)
    return SFTRow(row.input_ids, row.labels_mask, row.weight)


def _prompts(
    context: StageContext, tokenizer: PreTrainedTokenizerBase, section: PPOSection
) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    found: list[Sequence[Prompt]] = []
    for name, key in (("train", "prompts.train"), ("eval", "prompts.eval")):
        split = stage_split(context, key)
        found.append([])
        if split is not None:
            read = prompts(tokenizer, split, section, cache=token_folder(context.recipe))
            print(f"{name}: {read}", flush=True)
            found[-1] = read.rows
    return found[0], found[1]


def _save(
    accelerator: Accelerator, prepared: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """The policy as the artefact's model, the critic beside it: both are what a later run would go on from."""
    if not accelerator.is_main_process:
        return
    model = cast(ActorCritic, accelerator.unwrap_model(prepared))
    cast(Any, model.policy).config.pad_token_id = tokenizer.pad_token_id
    for part, place in ((model.policy, folder), (model.critic, folder / "critic")):
        given = {"state_dict": whole_state(part)} if is_sharded(accelerator) else {}
        cast(Any, part).save_pretrained(str(place), **given)
    for card in folder.rglob("README.md"):  # PEFT's empty model cards
        card.unlink()
