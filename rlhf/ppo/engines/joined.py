"""Projections that read the same input as one product: fewer, larger kernels, of which a decoding step is a chain.

transformers' layers call them one after the other, in the order of `_GROUPS`. The first computes all of them and hands
the others theirs.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Joined:
    """Linear layers of one input, behind one another.

    Args:
        layers: their weights become views of the joined one where `owned`, else stay, and `refresh` copies them.
        owned: whether nobody but the decoding tree holds the weights.
    """

    def __init__(self, layers: list[nn.Linear], *, owned: bool) -> None:
        self._layers, self._owned = layers, owned
        self.sizes = [layer.out_features for layer in layers]
        self.weight = torch.cat([layer.weight.data for layer in layers])
        biases = [layer.bias for layer in layers]
        self.bias = None if biases[0] is None else torch.cat([bias.data for bias in biases])
        self.parts: tuple[Tensor, ...] | None = None
        if owned:
            for name, whole in self._wholes():
                for layer, part in zip(layers, whole.split(self.sizes), strict=True):
                    getattr(layer, name).data = part

    def refresh(self) -> None:
        """Take over the layers' weights of now."""
        if not self._owned:
            for name, whole in self._wholes():
                torch.cat([getattr(layer, name).data for layer in self._layers], out=whole)

    def _wholes(self) -> list[tuple[str, Tensor]]:
        return [("weight", self.weight)] + ([] if self.bias is None else [("bias", self.bias)])


class _Part(nn.Module):
    """Stands in for one of the layers."""

    def __init__(self, joined: Joined, number: int) -> None:
        super().__init__()
        self.joined, self.number = joined, number

    def forward(self, inputs: Tensor) -> Tensor:
        joined = self.joined
        if self.number == 0:
            joined.parts = F.linear(inputs, joined.weight, joined.bias).split(joined.sizes, dim=-1)
        parts = cast(tuple[Tensor, ...], joined.parts)
        if self.number == len(parts) - 1:
            joined.parts = None
        return parts[self.number]


def join_projections(model: nn.Module, *, owned: bool) -> list[Joined]:
    """Join what can be: in every module that has all linear layers of a group, with a bias each or none.

    Args:
        model: a tree of a `Shadow`; changed.
        owned: see `Joined`.
    """
    found: list[Joined] = []
    for module in list(model.modules()):
        for names in _GROUPS:
            layers = [getattr(module, name, None) for name in names]
            if not all(type(layer) is nn.Linear for layer in layers):
                continue
            linear = cast(list[nn.Linear], layers)
            if len({layer.bias is None for layer in linear}) > 1:
                continue
            found.append(Joined(linear, owned=owned))
            for number, name in enumerate(names):
                cast(Any, module).register_module(name, _Part(found[-1], number))
    return found
