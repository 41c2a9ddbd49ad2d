"""A LoRA adapter worked into its base: whole weights that say what base and adapter say (Hu et al. 2021, section 4.1).

All in float32 and in memory: the base's files are only read. An adapter that was trained on a base in 4 bits is merged
into the weights that those codes stand for, since it corrects for their error too (Dettmers et al. 2023): the result
then scores as published. In the base's own weights it would be another model.
"""

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from peft.peft_model import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from rlhf.errors import ModelError
from rlhf.models.embeddings import fit_embeddings
from rlhf.models.forward import score_token_lists
from rlhf.models.load import ModelSource, load_causal_lm, load_reward_model
from rlhf.models.quantized import dequantized, is_quantized

Kind = Literal["causal_lm", "reward_model"]
TOLERANCE = 1e-3
"""Largest difference between merged weights and adapter that is float32's rounding, in units of the largest output."""
_NUM_PROBES, _PROBE_TOKENS = 4, 32


@dataclass(frozen=True)
class Merged:
    """Whole weights.

    Attributes:
        model: in float32, on the CPU.
        outputs: what the adapter says on the probes: logits [N, L, V] or scores [N], float32.
        difference: how far the merged weights are from that at most, absolute.
    """

    model: PreTrainedModel
    outputs: Tensor
    difference: float


def merge(source: ModelSource, kind: Kind, tokenizer: PreTrainedTokenizerBase) -> Merged:
    """Merge an adapter and compare what the merged weights say with what the adapter said.

    Args:
        source: an adapter folder, and how its base was held.
        kind: a language model is compared by logits, a reward model, which keeps its one-label head, by scores.
        tokenizer: the adapter's; the configuration names its pad token afterwards.

    Raises:
        ModelError: base or adapter cannot be loaded whole, or the outputs differ by more than rounding.
    """
    adapted = _adapted(source, kind)
    fit_embeddings(adapted, tokenizer, seed=0)
    before = outputs(adapted, kind)
    model = cast(PreTrainedModel, adapted.merge_and_unload())
    difference = float((outputs(model, kind) - before).abs().max())
    allowed = TOLERANCE * max(1.0, float(before.abs().max()))
    if not difference <= allowed:
        raise ModelError(
            f"{source.path}: merged into its base it differs from the adapter by {difference:.3g} "
            f"(at most {allowed:.3g} is rounding)",
            "Its layers cannot be merged: go on with base and adapter.",
        )
    return Merged(model, before, difference)


@torch.no_grad()
def outputs(model: nn.Module, kind: Kind) -> Tensor:
    """Logits [N, L, V] or scores [N], float32, on the same random tokens for every model of one vocabulary."""
    config = cast(PreTrainedModel, model).config.get_text_config()
    length = min(_PROBE_TOKENS, getattr(config, "max_position_embeddings", None) or _PROBE_TOKENS)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (_NUM_PROBES, length), generator=generator)
    if kind == "reward_model":
        return torch.tensor(score_token_lists(model, ids.tolist(), batch_size=_NUM_PROBES))
    return model.eval()(input_ids=ids, use_cache=False).logits.float()


def load(source: ModelSource, kind: Kind) -> nn.Module:
    """A model of either kind in float32."""
    return load_causal_lm(source, trainable=False) if kind == "causal_lm" else load_reward_model(source)


def _adapted(source: ModelSource, kind: Kind) -> PeftModel:
    """The adapter on whole float32 weights, which are those of the 4-bit codes where it was trained on them."""
    adapted = cast(PeftModel, load(replace(source, quantization=None), kind))
    if source.quantization is not None:
        held = load(source, kind)
        for name, module in held.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if is_quantized(own.get("weight")):
                plain = adapted.get_submodule(name)
                weight = dequantized(own["weight"])
                cast(nn.Parameter, plain.weight).data.copy_(weight.T if isinstance(plain, Conv1D) else weight)
    return adapted
