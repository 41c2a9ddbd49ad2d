"""The reward model over TRL's RewardTrainer, on pairs that are encoded here exactly as PPO will produce them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import DataCollatorForPreference, RewardTrainer

from rlhf.models.embeddings import fit_embeddings
from rlhf.models.forward import score_token_lists
from rlhf.models.load import load_causal_lm, load_reward_model, new_reward_model
from rlhf.models.tokenizer import pad_id, stop_token_ids
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.noise import EVALUATION_STREAM, sampling_noise
from rlhf.recipe.training import RewardSection
from rlhf.registry.manifest import Probe, RewardStats
from rlhf.stages.context import StageContext
from rlhf.stages.hf_arguments import training_arguments
from rlhf.stages.hf_trainer import CheckpointingTrainer, attach, train
from rlhf.stages.publish import Described, publish
from rlhf.stages.reward_report import reward_report
from rlhf.stages.sharded import loading_whole
from rlhf.stages.tokens.encoders import Pair
from rlhf.stages.tokens.examples import Examples, pairs
from rlhf.stages.tokens.rows import Column, TokenRows
from rlhf.stages.tokens.splits import stage_split, token_folder

BEST_METRIC = "eval_accuracy"
NUM_PROBES = 8
SCORING_BATCH = 64


def run(context: StageContext) -> bool:
    """Train, select, report, publish; False when a signal stopped it after saving."""
    section = context.recipe.reward
    assert section is not None
    given = context.inputs.policy
    assert given is not None
    tokenizer = context.tokenizer(given)
    split, held_out_split = stage_split(context, "preference.train"), stage_split(context, "preference.eval")
    assert split is not None
    cache = token_folder(context.recipe)
    training = pairs(tokenizer, split, section, cache=cache)
    held_out = pairs(tokenizer, held_out_split, section, cache=cache) if held_out_split else None
    print(f"train: {training}\neval: {held_out}", flush=True)
    model = new_reward_model(
        context.source(given),
        lora=context.recipe.model.lora,
        pad_token_id=pad_id(tokenizer),
        seed=context.recipe.stage_seed("reward"),
    )
    fit_embeddings(model, tokenizer, seed=context.recipe.stage_seed("reward"))
    trainer = WeightedRewardTrainer(
        model=model,  # pyright: ignore[reportArgumentType]  # a PEFT model is a PreTrainedModel to TRL
        args=RewardConfig(
            **training_arguments(
                context,
                section,
                has_eval=held_out is not None,
                best_metric=BEST_METRIC,
                greater_is_better=True,
            ),
            center_rewards_coefficient=section.center_rewards_coefficient,
            disable_dropout=True,
        ),
        train_dataset=_dataset(training, section),
        eval_dataset=None if held_out is None else _dataset(held_out, section),
        processing_class=tokenizer,
        data_collator=WeightedCollator(pad_token_id=pad_id(tokenizer)),
    )
    attach(trainer, context, section, best_metric=BEST_METRIC, greater_is_better=True)
    if not train(trainer, context, section):
        return False
    describe = partial(
        _describe,
        context,
        trainer,
        tokenizer,
        section,
        held_out or training,
        is_held_out=held_out is not None,
    )
    publish(context, tokenizer, trainer.save_weights, describe=describe)
    return True


class WeightedCollator(DataCollatorForPreference):
    """TRL's collator, with each pair's weight: [B] float32; a pair without a margin has the margin 0."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad and stack: all chosen rows, then all rejected ones."""
        if "margin" in examples[0]:
            examples = [{**example, "margin": example["margin"] or 0.0} for example in examples]
        batch = super().torch_call(examples)
        if any(example["weight"] != 1.0 for example in examples):
            batch["weight"] = torch.tensor([example["weight"] for example in examples], dtype=torch.float32)
        return batch


class WeightedRewardTrainer(CheckpointingTrainer, RewardTrainer):
    """RewardTrainer whose pairs have weights: mean over pairs of weight x -log sigmoid(r_chosen - r_rejected - margin)."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See the class; TRL's own loss where no pair of the batch has a weight."""
        weight, margin = inputs.pop("weight", None), inputs.get("margin")
        loss, outputs = cast(Any, super()).compute_loss(model, inputs, True, num_items_in_batch)
        if weight is not None:
            chosen, rejected = torch.chunk(outputs.logits.squeeze(-1), chunks=2)
            gap = chosen - rejected if margin is None else chosen - rejected - margin
            loss = -(weight.to(gap.device) * F.logsigmoid(gap)).mean()
            centre = cast(RewardConfig, self.args).center_rewards_coefficient
            if centre is not None:
                loss = loss + centre * torch.mean((chosen + rejected) ** 2)
        return (loss, outputs) if return_outputs else loss


def _describe(
    context: StageContext,
    trainer: WeightedRewardTrainer,
    tokenizer: PreTrainedTokenizerBase,
    section: RewardSection,
    pairs: Examples[Pair],
    folder: Path,
    *,
    is_held_out: bool,
) -> Described:
    """Score pairs, probe and reference samples in float32."""
    rows = pairs.rows
    samples = _reference_samples(context, trainer.accelerator.device, tokenizer, section, rows)
    model = _in_float32(context, trainer, folder)
    chosen, rejected = (
        score_token_lists(model, Column(rows.dataset, name), batch_size=SCORING_BATCH)
        for name in ("chosen_ids", "rejected_ids")
    )
    stats = None
    if samples:
        scores = torch.tensor(score_token_lists(model, samples, batch_size=SCORING_BATCH))
        stats = RewardStats(mean=float(scores.mean()), std=float(scores.std()), num_samples=len(samples))
    prefix = "eval" if is_held_out else "train"
    metrics = {f"{prefix}/{name}": value for name, value in reward_report(rows, chosen, rejected).items()}
    probes = [row.chosen_ids for row in rows[:NUM_PROBES]]
    scale = max(1.0, *(abs(score) for score in chosen[:NUM_PROBES]))
    # The same weights give the same scores up to the rounding of another device; a new head differs by its scale.
    probe = Probe(token_ids=probes, scores=chosen[:NUM_PROBES], tolerance=0.02 * scale)
    print(f"report: {metrics}\nreference samples: {stats}", flush=True)
    return Described(metrics, stats, probe)


def _in_float32(context: StageContext, trainer: WeightedRewardTrainer, folder: Path) -> nn.Module:
    """The trained model as PPO will load it.

    ZeRO and FSDP2 share it out and hold it in bfloat16 under mixed precision, in which the scores of some models are
    quite other ones: there it is the one that was saved.
    """
    accelerator = trainer.accelerator
    if accelerator.distributed_type not in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        return cast(nn.Module, accelerator.unwrap_model(trainer.model))
    given = context.inputs.policy
    assert given is not None
    saved = replace(context.source(given), path=str(folder), revision=None)
    with loading_whole():
        return load_reward_model(saved).to(accelerator.device)


def _reference_samples(
    context: StageContext,
    device: torch.device,
    tokenizer: PreTrainedTokenizerBase,
    section: RewardSection,
    rows: TokenRows[Pair],
) -> list[list[int]]:
    """The SFT model's own samples, at temperature 1, each behind its prompt; none where fewer than two are wanted.

    Prompts are those of the pairs, in turn; a response may be as long as their longest completion, as far as
    `max_length` has room for it.
    """
    limit = section.max_length
    prompts = _first_prompts(rows, limit, section.num_reference_samples)
    if not prompts or section.num_reference_samples < 2:
        return []
    given = context.inputs.policy
    assert given is not None
    with loading_whole():
        policy = load_causal_lm(context.source(given), trainable=False).to(device).eval()
    lengths = [max(len(row.chosen_ids), len(row.rejected_ids)) - len(row.prompt_ids or ()) for row in rows]
    longest = max(1, *lengths)
    stop_ids = stop_token_ids(tokenizer, getattr(policy.generation_config, "eos_token_id", None))
    jobs = [(index % len(prompts), index // len(prompts)) for index in range(section.num_reference_samples)]
    sequences: list[list[int]] = []
    for start in range(0, len(jobs), SCORING_BATCH):
        part = jobs[start : start + SCORING_BATCH]
        asked = [prompts[prompt] for prompt, _ in part]
        num_tokens = min(longest, limit - max(map(len, asked)))
        noise = sampling_noise(
            context.recipe.stage_seed("reward"),
            0,
            [prompt for prompt, _ in part],
            [sample for _, sample in part],
            num_tokens,
            stream=EVALUATION_STREAM,
        )
        generation = HFEngine().generate(
            policy, asked, torch.from_numpy(noise), temperature=1.0, stop_ids=stop_ids
        )
        sampled = zip(asked, generation.response_ids, generation.response_mask, strict=True)
        sequences += [prompt + ids[mask].tolist() for prompt, ids, mask in sampled]
    return sequences


def _first_prompts(rows: TokenRows[Pair], limit: int, count: int) -> list[list[int]]:
    """The first `count` different prompts with fewer than `limit` tokens."""
    unique: dict[tuple[int, ...], None] = {}
    for prompt_ids in Column(rows.dataset, "prompt_ids"):
        if len(unique) == count:
            break
        if prompt_ids and len(prompt_ids) < limit:
            unique[tuple(prompt_ids)] = None
    return [list(ids) for ids in unique]


def _dataset(examples: Examples[Pair], section: RewardSection) -> Dataset:
    # TRL puts any `margin` column into the loss; without `margin: loss` it never sees one.
    margin = ["margin"] if section.margin == "loss" else []
    return examples.dataset.select_columns(["chosen_ids", "rejected_ids", "weight", *margin])
