"""MLPs of a transformer, computed for the tokens that count: they take each token by itself, whatever its neighbours."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rlhf.models.load import TESTED_FAMILIES, inner_model_of, layers_of


def can_leave_out(model: nn.Module) -> bool:
    """Whether `mlps_on` may be used for a forward pass of now.

    Not for families that it is not tested with, nor for compiled layers, into which no hook reaches, nor for passes with
    gradient checkpointing, whose backward computes layers anew when `mlps_on` is over.
    """
    if inner_model_of(model).config.model_type not in TESTED_FAMILIES:
        return False
    layer = layers_of(model)[-1]
    is_compiled = layer._compiled_call_impl is not None  # pyright: ignore[reportPrivateUsage]
    checkpoints = layer.gradient_checkpointing and layer.training and torch.is_grad_enabled()
    return not is_compiled and not checkpoints


@contextmanager
def mlps_on(model: nn.Module, places: Tensor | None, last: Tensor | None) -> Generator[None]:
    """Within it, a forward pass computes MLPs for some tokens alone, and gives 0 for the others.

    Padding needs none, and in the last layer, whose attention is the last to mix tokens, neither do tokens whose states
    nobody reads, as those of prompts in PPO.

    Args:
        model: a causal LM or a reward model, of which `can_leave_out` is true where any place is given.
        places: [n] int64, each once: tokens of the flattened rows, for all layers but the last; None: all.
        last: the same for the last layer.
    """
    if places is None and last is None:
        yield
        return
    hooks: list[RemovableHandle] = []
    layers = layers_of(model)
    try:
        for layer, wanted in zip(layers, [places] * (len(layers) - 1) + [last], strict=True):
            if wanted is not None:
                hooks += _hooked(cast(Any, layer).mlp, wanted)
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hooked(mlp: nn.Module, places: Tensor) -> Sequence[RemovableHandle]:
    shape: list[int] = []

    def select(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        shape[:] = inputs[0].shape
        return (inputs[0].flatten(0, 1).index_select(0, places)[None],)

    def put_back(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        rows, columns, size = shape
        return output.new_zeros(rows * columns, size).index_copy(0, places, output[0]).view(shape)

    return mlp.register_forward_pre_hook(select), mlp.register_forward_hook(put_back)
