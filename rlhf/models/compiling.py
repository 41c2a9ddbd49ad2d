"""torch.compile for a transformer, one layer at a time: compiled once, it serves all layers of all models of that shape."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch._dynamo
import torch._functorch.config
from torch import nn
from transformers import Cache, PreTrainedModel

from rlhf.models.load import layers_of

_KEPT_ACTIVATIONS = 0.8
"""Share that the backward pass need not compute anew: without norms and products, which it has at hand, a third less is kept."""
_KINDS_OF_CALL = 64
"""Before torch.compile gives up on a function: roles, adapters, with and without gradient are a kind each."""


def compile_layers(model: nn.Module) -> None:
    """Let each layer's forward and backward pass be compiled at its first call, for sequences of any length."""
    _prepare_compiler()
    torch._functorch.config.activation_memory_budget = _KEPT_ACTIVATIONS
    for layer in layers_of(model):
        layer.compile(dynamic=True)


def compile_for_caches(model: PreTrainedModel) -> None:
    """As `compile_layers`, for a model of one's own that is called with caches.

    Each layer is called as layer 0 of a cache that holds its own part alone: compiled code knows a layer's number, and
    would be compiled for each.
    """
    _prepare_compiler()
    compiled = torch.compile(_call_layer, dynamic=True)
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = cast(Any, 0)
    for number, layer in enumerate(layers_of(model)):
        layer.forward = partial(_with_own_cache, compiled, layer, number)


def _with_own_cache(
    compiled: Callable[..., Any], layer: nn.Module, number: int, *args: Any, **named: Any
) -> Any:
    def own(value: Any) -> Any:
        return Cache(layers=[value.layers[number]]) if isinstance(value, Cache) else value

    return compiled(layer, *map(own, args), **{name: own(value) for name, value in named.items()})


def _call_layer(layer: nn.Module, *args: Any, **named: Any) -> Any:
    return type(layer).forward(layer, *args, **named)


def _prepare_compiler() -> None:
    torch._dynamo.config.optimize_ddp = False  # layers are apart already, and it would cut them up
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _KINDS_OF_CALL)
