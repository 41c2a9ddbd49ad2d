"""A frozen base in 4 bits under float32 adapters and heads (Dettmers et al. 2023, "QLoRA").

The base's linear layers hold NF4 codes, a float32 scale for every 64 weights, and those scales in 8 bits again (double
quantisation). Embeddings, norms, the output head and the score head stay float32. bitsandbytes, an optional extra, has
the kernels, on GPUs and CPUs.
"""

import importlib.util
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from rlhf.errors import ModelError, UsageError
from rlhf.recipe.model import Quantize

BLOCK = 64
"""Weights in a row that have one scale."""
_FLAG = "is_loaded_in_4bit"


@dataclass(frozen=True)
class Quantization:
    """How a frozen base is held.

    Attributes:
        kind: the codes.
        compute_dtype: what a weight is turned into for each product.
    """

    kind: Quantize
    compute_dtype: torch.dtype = torch.float32


def loading_arguments(quantization: Quantization) -> dict[str, Any]:
    """Arguments of `from_pretrained`; the weights go to this process's GPU at once, where there is one.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    require_bitsandbytes()
    on_gpu = torch.cuda.is_available()
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=quantization.compute_dtype,
    )
    return {"quantization_config": config, "device_map": {"": place}}


def require_bitsandbytes() -> None:
    """Raise UsageError, naming the extra, where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "a base in 4 bits needs bitsandbytes, which is not installed",
            "pip install -c constraints.txt -e '.[qlora]'.",
        )


def prepare(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """Freeze a base that was loaded in 4 bits and make it ready to be trained through.

    Raises:
        ModelError: it has no linear layer that could be quantised, or one that the CPU would read wrongly.
    """
    layers = [module for module in model.modules() if is_quantized(getattr(module, "weight", None))]
    if not layers:
        raise ModelError(
            f"model {path}: none of its layers can be held in 4 bits",
            "Leave model.lora.quantize out, or take a model with linear layers, such as Llama or Qwen.",
        )
    widths = {cast(Any, layer).weight.quant_state.shape[-1] for layer in layers if _is_on_cpu(layer)}
    odd = sorted(width for width in widths if width % BLOCK)
    if odd:
        # bitsandbytes 0.50's CPU kernel then takes other blocks' scales for most weights; its GPU kernel does not.
        raise ModelError(
            f"model {path}: a layer reads {odd[0]} features, no multiple of {BLOCK}: bitsandbytes reads its 4-bit weights "
            "wrongly on a CPU",
            "Train it on a GPU, or leave model.lora.quantize out.",
        )
    for layer in layers:
        # On a CPU with AVX512-BF16 an evaluation repacks the codes in place for a kernel that rounds to bfloat16 and
        # has no gradient, and training that goes on after it would use that.
        cast(Any, layer).support_avx512bf16_for_cpu = False
    prepared = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return cast(PreTrainedModel, prepared)


@contextmanager
def kept_in_float32(model: nn.Module) -> Generator[None]:
    """Within it TRL does not see that the base is in 4 bits: it would round adapter and head to bfloat16."""
    base = next((module for module in model.modules() if module.__dict__.get(_FLAG)), None)
    if base is not None:
        setattr(base, _FLAG, False)
    try:
        yield
    finally:
        if base is not None:
            setattr(base, _FLAG, True)


def dequantized(parameter: Tensor) -> Tensor:
    """The weights [N, K] float32, on the CPU, that 4-bit codes stand for."""
    from bitsandbytes.functional import dequantize_4bit  # the optional extra

    state = cast(Any, parameter).quant_state
    return dequantize_4bit(parameter.data, state).to("cpu", torch.float32).reshape(state.shape)


def _is_on_cpu(layer: nn.Module) -> bool:
    return cast(nn.Parameter, layer.weight).device.type == "cpu"


def is_quantized(weight: object) -> bool:
    """Whether a parameter holds 4-bit codes."""
    return isinstance(weight, nn.Parameter) and getattr(weight, "quant_state", None) is not None


def scales_of(parameter: Tensor) -> list[Tensor]:
    """What belongs to the 4-bit codes of a parameter: the scales, their own scales and offset; nothing of another one.

    Equal codes under other scales are other weights.
    """
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return []
    nested = [] if state.state2 is None else [state.state2.absmax, state.offset]
    return [state.absmax, *nested]
