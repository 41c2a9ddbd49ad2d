"""Norms and rotations of transformer layers in fewer passes over memory, for CPUs, which spend on them as much time as it
takes to read and write them, and have nobody to fuse them.

transformers' modules stay as they are: within `lean_operators` theirs are computed by these, with the same results but for
the last bits.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlhf.models.load import home_of, inner_model_of

_NORMS = {
    "gemma": "GemmaRMSNorm",
    "llama": "LlamaRMSNorm",
    "mistral": "MistralRMSNorm",
    "qwen2": "Qwen2RMSNorm",
    "qwen3": "Qwen3RMSNorm",
}
"""Of the families that rotate whole heads; the class is in the module of its family, beside `apply_rotary_pos_emb`."""


class RMSNorm(torch.autograd.Function):
    """x r w with r = 1 / sqrt(mean(x^2) + eps), over the last dimension (Zhang and Sennrich 2019, eq. 4).

    `apply(x, w, eps)`: x [..., H] and w [H] of one float dtype gives [..., H]. PyTorch would keep every product between
    for the backward pass; here x, w and r are kept, and for H elements of a token
    dx = r g w - x r^3 / H sum(g w x), dw = the sum over tokens of g x r.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        scale = norm.square_().div_(states.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(states, weight, scale)
        return (states * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        states, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        product = gradient * states
        of_states = of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = scale.flatten() @ product.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            share = (product @ weight).unsqueeze(-1) * scale.pow(3) / states.shape[-1]
            of_states = (gradient * weight).mul_(scale).addcmul_(states, share, value=-1)
        return of_states, of_weight, None


class Rotate(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, eq. 34) of states whose halves are the pairs' first and second parts.

    `apply(x, cos, sin)`: x [B, heads, L, D], cos and sin [B or 1, 1, L, D] without gradient, all of one float dtype.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = states.chunk(2, dim=-1)
        return (states * cos).addcmul_(torch.cat([-second, first], dim=-1), sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (gradient,) = gradients
        first, second = (gradient * sin).chunk(2, dim=-1)
        of_states = gradient * cos
        of_first, of_second = of_states.chunk(2, dim=-1)
        of_first.add_(second)
        of_second.sub_(first)
        return of_states, None, None


@contextmanager
def lean_operators(model: nn.Module) -> Generator[None]:
    """Within it a model's norms and rotations in float32 on a CPU are computed leanly; others, and families without, as ever.

    A pass must not be computed anew outside of it, and not be compiled: see `takes_shortcuts`.

    Args:
        model: a causal LM or a reward model.
    """
    inner = inner_model_of(model)
    name = _NORMS.get(inner.config.model_type)
    if name is None or inner.device.type != "cpu":
        yield
        return
    module: Any = sys.modules[home_of(inner)]
    norm = getattr(module, name)
    norms_forward, rotates = norm.forward, module.apply_rotary_pos_emb
    norm.forward = _norm_by(norms_forward)
    module.apply_rotary_pos_emb = _rotate_by(rotates)
    try:
        yield
    finally:
        norm.forward, module.apply_rotary_pos_emb = norms_forward, rotates


def _norm_by(plain: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    def forward(norm: nn.Module, states: Tensor) -> Tensor:
        weight = cast(Tensor, norm.weight)
        if not _are_plain(states, weight):
            return plain(norm, states)
        is_gemma = type(norm).__name__ == _NORMS["gemma"]  # its weights are what differs from 1
        eps = norm.eps if is_gemma else norm.variance_epsilon
        return cast(Tensor, RMSNorm.apply(states, 1 + weight if is_gemma else weight, eps))

    return forward


def _rotate_by(plain: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    def rotate(
        queries: Tensor, keys: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        if not _are_plain(queries, keys, cos, sin):
            return plain(queries, keys, cos, sin, unsqueeze_dim)
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return cast(Tensor, Rotate.apply(queries, cos, sin)), cast(Tensor, Rotate.apply(keys, cos, sin))

    return rotate


def _are_plain(*tensors: Tensor) -> bool:
    return all(each.dtype == torch.float32 and each.device.type == "cpu" for each in tensors)
