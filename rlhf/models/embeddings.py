"""Room in a model for the tokens of its prepared tokenizer: a pad token may have had to be added."""

from typing import Any, cast

import torch
from peft.peft_model import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import ModelError


def fit_embeddings(model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
    """Add embeddings where the tokenizer has more tokens, and let the configurations name its pad token.

    Args:
        model: a causal language model or a reward model.
        tokenizer: as `load_tokenizer` prepared it.
        seed: of the new rows; one seed gives policy and reference the same ones.

    Raises:
        ModelError: new embeddings under LoRA, which would not save them.
    """
    inner = cast(Any, model)
    rows = inner.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        if isinstance(model, PeftModel):
            raise ModelError(
                f"the tokenizer has {len(tokenizer)} tokens, the model only {rows} embeddings: a pad token had to be added, "
                "and LoRA does not train new embeddings",
                "Name an unused token of the vocabulary as pad_token in the model's tokenizer_config.json.",
            )
        torch.manual_seed(seed)
        inner.resize_token_embeddings(len(tokenizer))
    for config in (inner.config, getattr(inner, "generation_config", None)):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id
