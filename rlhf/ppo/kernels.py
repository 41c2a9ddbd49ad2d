"""Log-probabilities and entropies of tokens from their logits in one reading, in Triton: imported on a GPU alone.

x a token's logits over the temperature, p their softmax, lse their log-sum-exp, H the entropy -sum p log p:

    log p_y = x_y - lse        d log p_y / d x_i = [i = y] - p_i        d H / d x_i = -p_i (log p_i + H)
"""

from typing import Any, cast

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_BLOCK = 4096


class LogprobsAtLabels(torch.autograd.Function):
    """`apply(logits [n, V], labels [n] int64, temperature)` gives log-probabilities and entropies, [n] float32 each."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """One program a token walks the vocabulary with a running maximum."""
        logits = logits.contiguous()
        lse, entropy, logprobs = torch.empty(3, len(labels), dtype=torch.float32, device=logits.device)
        if len(labels):
            cast(Any, _forward)[(len(labels),)](
                logits,
                labels,
                lse,
                entropy,
                logprobs,
                logits.shape[1],
                temperature,
                BLOCK=_BLOCK,
                num_warps=8,
            )
        ctx.save_for_backward(logits, labels, lse, entropy)
        ctx.temperature = temperature
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The logits' gradient, in their dtype."""
        logits, labels, lse, entropy = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows, vocabulary = logits.shape
        if rows:
            of_logprobs, of_entropy = (each.contiguous() for each in gradients)
            cast(Any, _backward)[(rows, triton.cdiv(vocabulary, _BLOCK))](
                logits,
                labels,
                lse,
                entropy,
                of_logprobs,
                of_entropy,
                result,
                vocabulary,
                ctx.temperature,
                BLOCK=_BLOCK,
                num_warps=8,
            )
        return result, None, None


@triton.jit
def _forward(logits, labels, lse, entropy, logprobs, vocabulary, temperature, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * vocabulary
    highest = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    weighted = tl.full([], 0.0, tl.float32)  # sum of exp(x - highest) (x - highest)
    for block in range(0, vocabulary, BLOCK):
        token = block + tl.arange(0, BLOCK)
        scaled = (
            tl.load(start + token, mask=token < vocabulary, other=float("-inf")).to(tl.float32) / temperature
        )
        higher = tl.maximum(highest, tl.max(scaled, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        drop = tl.where(highest == float("-inf"), 0.0, highest - base)
        kept = tl.exp(drop)
        weight = tl.exp(scaled - base)
        weighted = kept * (weighted + drop * total)
        weighted += tl.sum(tl.where(weight > 0, weight * (scaled - base), 0.0), axis=0)
        total = kept * total + tl.sum(weight, axis=0)
        highest = higher
    log_total = tl.log(total)
    label = tl.load(start + tl.load(labels + row)).to(tl.float32) / temperature
    tl.store(lse + row, highest + log_total)
    tl.store(entropy + row, log_total - weighted / total)
    tl.store(logprobs + row, label - highest - log_total)


@triton.jit
def _backward(
    logits,
    labels,
    lse,
    entropy,
    of_logprobs,
    of_entropy,
    result,
    vocabulary,
    temperature,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocabulary
    scaled = tl.load(logits + row * vocabulary + token, mask=inside, other=0.0).to(tl.float32) / temperature
    logprob = scaled - tl.load(lse + row)
    probability = tl.exp(logprob)
    is_label = (token == tl.load(labels + row)).to(tl.float32)
    of_token = tl.load(of_logprobs + row) * (is_label - probability)
    of_spread = tl.where(probability > 0, probability * (logprob + tl.load(entropy + row)), 0.0)
    gradient = (of_token - tl.load(of_entropy + row) * of_spread) / temperature
    tl.store(result + row * vocabulary + token, gradient.to(result.dtype.element_ty), mask=inside)
