"""Supervised fine-tuning over TRL's SFTTrainer, on sequences that are encoded and labelled here.

TRL trains; the tokens, the labels and the weights are ours, since its own chat handling does not cover every template
and its truncation drops rows without a word.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from rlhf.models.embeddings import fit_embeddings
from rlhf.models.load import disable_dropout, load_causal_lm, scratch_causal_lm
from rlhf.models.tokenizer import eos_id, pad_id, train_tokenizer
from rlhf.recipe.training import SFTSection
from rlhf.stages.context import StageContext
from rlhf.stages.hf_arguments import training_arguments
from rlhf.stages.hf_trainer import CheckpointingTrainer, attach, train
from rlhf.stages.publish import publish
from rlhf.stages.tokens.encoders import Demonstration
from rlhf.stages.tokens.examples import Examples, demonstrations
from rlhf.stages.tokens.splits import Split, stage_split, token_folder
from rlhf_schemas import SFTRecord

BEST_METRIC = "eval_loss"


def run(context: StageContext) -> bool:
    """Train, select, publish; False when a signal stopped it after saving."""
    section = context.recipe.sft
    assert section is not None
    split, held_out_split = stage_split(context, "sft.train"), stage_split(context, "sft.eval")
    assert split is not None
    tokenizer, model = _start(context, section, split)
    cache = token_folder(context.recipe)
    training = demonstrations(tokenizer, split, section, cache=cache)
    held_out = demonstrations(tokenizer, held_out_split, section, cache=cache) if held_out_split else None
    print(f"train: {training}\neval: {held_out}", flush=True)
    arguments = SFTConfig(
        **training_arguments(
            context, section, has_eval=held_out is not None, best_metric=BEST_METRIC, greater_is_better=False
        )
    )
    trainer = WeightedSFTTrainer(
        model=model,  # pyright: ignore[reportArgumentType]  # a PEFT model is a PreTrainedModel to TRL
        args=arguments,
        train_dataset=_dataset(training),
        eval_dataset=None if held_out is None else _dataset(held_out),
        processing_class=tokenizer,
        data_collator=WeightedCollator(pad_token_id=pad_id(tokenizer)),
    )
    attach(trainer, context, section, best_metric=BEST_METRIC, greater_is_better=False)
    if not train(trainer, context, section):
        return False
    metrics = trainer.evaluate() if held_out is not None else {}
    publish(context, tokenizer, trainer.save_weights, metrics=metrics)
    return True


class WeightedCollator(DataCollatorForLanguageModeling):
    """TRL's collator, with each row's weight, where the split has weights: [B] float32."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad and stack."""
        batch = super().torch_call(examples)
        if "weight" in examples[0]:
            batch["weight"] = torch.tensor([example["weight"] for example in examples], dtype=torch.float32)
        return batch


class WeightedSFTTrainer(CheckpointingTrainer, SFTTrainer):
    """SFTTrainer whose loss is a weighted sum of rows over the number of label tokens; weight 1 is TRL's loss."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See the class; TRL's own loss for a split without weights."""
        weight = inputs.pop("weight", None)
        if weight is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        num_tokens = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
        loss = -(outputs.log_probs.sum(dim=1) * weight.to(outputs.log_probs.device)).sum() / num_tokens
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss


def _start(
    context: StageContext, section: SFTSection, split: Split
) -> tuple[PreTrainedTokenizerBase, torch.nn.Module]:
    recipe = context.recipe
    seed = recipe.stage_seed("sft")
    given = context.inputs.policy
    if given is None:
        spec = recipe.model.scratch
        assert spec is not None
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(_texts(split), spec.vocab_size)
        model: torch.nn.Module = scratch_causal_lm(
            spec,
            eos_token_id=eos_id(tokenizer),
            pad_token_id=pad_id(tokenizer),
            seed=seed,
        )
        return tokenizer, model
    tokenizer = context.tokenizer(given)
    model = load_causal_lm(context.source(given), lora=recipe.model.lora, seed=seed)
    fit_embeddings(model, tokenizer, seed=seed)
    if not section.dropout:
        disable_dropout(model)
    return tokenizer, model


def _texts(split: Split) -> Iterator[str]:
    """All text of the SFT split, for the tokenizer of a model from scratch."""
    for item in split.rows():
        record = cast(SFTRecord, item.record)
        for part in (record.prompt, record.completion, record.messages, record.text):
            if isinstance(part, str):
                yield part
            elif part is not None:
                yield from (message.content for message in part)


def _dataset(examples: Examples[Demonstration]) -> Dataset:
    # For the split, not for a batch: TRL's own loss gathers its metrics, so every rank must take the same path.
    return examples.dataset if examples.has_weights else examples.dataset.remove_columns("weight")
