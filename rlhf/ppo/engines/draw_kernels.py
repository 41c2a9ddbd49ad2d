"""The draw of a decoding step, in Triton: `rlhf.ppo.engines.sampling` in two readings of the logits; imported on a GPU alone."""

from typing import Any, cast

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor


def inverse_cdf(logits: Tensor, noise: Tensor, temperature: float, size: int) -> tuple[Tensor, Tensor]:
    """The tokens at which the cumulative probability first exceeds the noise, and their log-probabilities.

    Args:
        logits: [B, V], any float dtype, contiguous.
        noise: [B] float32 in [0, 1).
        temperature: above 0.
        size: of the blocks that the vocabulary is cut into, a power of two.

    Returns:
        [B] int64, [B] float32.
    """
    rows, vocabulary = logits.shape
    blocks = triton.cdiv(vocabulary, size)
    largest, sums = torch.empty(2, rows, blocks, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        cast(Any, _block_sums)[(rows, blocks)](
            logits, largest, sums, vocabulary, temperature, SIZE=size, num_warps=4
        )
        cast(Any, _draw)[(rows,)](
            logits,
            largest,
            sums,
            noise.contiguous(),
            tokens,
            logprobs,
            vocabulary,
            blocks,
            temperature,
            SIZE=size,
            BLOCKS=triton.next_power_of_2(blocks),
            num_warps=4,
        )
    return tokens, logprobs


@triton.jit
def _block_sums(logits, largest, sums, vocabulary, temperature, SIZE: tl.constexpr):  # noqa: N803
    """Each block's largest logit over the temperature, and its sum of exponentials relative to that."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = block * SIZE + tl.arange(0, SIZE)
    scaled = tl.load(logits + row * vocabulary + token, mask=token < vocabulary, other=float("-inf"))
    scaled = scaled.to(tl.float32) / temperature
    highest = tl.max(scaled, axis=0)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    place = row * tl.num_programs(1) + block
    tl.store(largest + place, highest)
    tl.store(sums + place, tl.sum(tl.exp(scaled - base), axis=0))


@triton.jit
def _draw(
    logits,
    largest,
    sums,
    noise,
    tokens,
    logprobs,
    vocabulary,
    num_blocks,
    temperature,
    SIZE: tl.constexpr,  # noqa: N803
    BLOCKS: tl.constexpr,  # noqa: N803
):
    """One program a row: the block, then the token in it, as `sampling._inverse_cdf` does."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    there = block < num_blocks
    tops = tl.load(largest + row * num_blocks + block, mask=there, other=float("-inf"))
    parts = tl.load(sums + row * num_blocks + block, mask=there, other=0.0)
    highest = tl.max(tops, axis=0)
    weights = tl.where(there, parts.to(tl.float64) * tl.exp((tops - highest).to(tl.float64)), 0.0)
    chosen, total, end = _first_above(weights, tl.load(noise + row).to(tl.float64), block, num_blocks)
    weight = tl.sum(tl.where(block == chosen, weights, 0.0), axis=0)
    share = (tl.load(noise + row).to(tl.float64) * total - (end - weight)) / weight
    share = tl.minimum(tl.maximum(share, 0.0), 1.0)

    place = tl.arange(0, SIZE)
    token = chosen * SIZE + place
    known = token < vocabulary
    scaled = tl.load(logits + row * vocabulary + token, mask=known, other=float("-inf")).to(tl.float32)
    scaled = scaled / temperature - highest
    found, _, _ = _first_above(tl.exp(scaled.to(tl.float64)), share, place, SIZE)
    drawn = tl.minimum(chosen * SIZE + found, vocabulary - 1)
    of_token = tl.sum(tl.where(token == drawn, scaled, 0.0), axis=0)
    tl.store(tokens + row, drawn.to(tl.int64))
    tl.store(logprobs + row, (of_token.to(tl.float64) - tl.log(total)).to(tl.float32))


@triton.jit
def _first_above(weights, share, place, count):
    """The first place whose running sum exceeds a share of the whole sum, the whole sum, and the running sum there.

    It has a weight, whatever rounding does to the sums. Not a number stays not a number in the sum.
    """
    ends = tl.cumsum(weights, axis=0)
    total = tl.sum(tl.where(place == count - 1, ends, 0.0), axis=0)
    first = tl.min(tl.where((ends > share * total) & (weights > 0), place, count), axis=0)
    last = tl.max(tl.where(weights > 0, place, 0), axis=0)
    first = tl.minimum(first, last)
    return first, total, tl.sum(tl.where(place == first, ends, 0.0), axis=0)
