"""MLPs of a transformer, computed for the tokens that count: they take each token by itself, whatever its neighbours."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rlhf.models.load import layers_of


@contextmanager
def mlps_on(model: nn.Module, places: Tensor | None, last: Tensor | None) -> Generator[None]:
    """Within it, a forward pass computes MLPs for some tokens alone, and gives 0 for the others.

    Padding needs none, and in the last layer, whose attention is the last to mix tokens, neither do tokens whose states
    nobody reads, as those of prompts in PPO.

    Args:
        model: a causal LM or a reward model, of which `takes_shortcuts` is true where any place is given.
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
