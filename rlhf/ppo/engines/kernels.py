"""Attention of a decoding step, in Triton, which comes with PyTorch for CUDA and is absent without it: imported on a GPU alone."""

from typing import Any, cast

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_LEAST = 16
"""Rows and columns of the smallest product that tl.dot takes."""


# Said to change nothing, though it writes the cache: what reads the cache is this operator alone, and torch.compile
# would copy the whole of it at each step to keep to the order of writes.
@torch.library.custom_op("rlhf::attend", mutates_args=())
def attend(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, places: Tensor, scale: float
) -> Tensor:
    """Write one token a slot into the cache, and attend to all that a slot looks at.

    One program a slot and head of keys walks that slot's own columns with a running softmax (Milakov and Gimelshein
    2018, "Online normalizer calculation for softmax", algorithm 3); what lies behind a slot's position is not read.

    Args:
        query: [n, H, G, D], G heads of queries to a head of keys.
        key, value: [n, H, 1, D], the new token's; the rows of `value` may lie apart.
        keys, values: [S, H, L, D], contiguous, of which the first n slots take part.
        places: [n, 2] int64, the first column that a slot looks at, and the last, which is the new token's.
        scale: of the scores.

    Returns:
        [n, H, G, D], of the query's dtype.
    """
    rows, heads, group, size = query.shape
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    value = value if value[0].is_contiguous() else value.contiguous()
    is_float32 = query.dtype == torch.float32
    cast(Any, _attend)[(rows, heads)](
        query.contiguous(),
        key.contiguous(),
        value,
        keys,
        values,
        places.contiguous(),
        output,
        scale,
        value.stride(0),
        keys.shape[2],
        GROUP=group,
        MEMBERS=max(_LEAST, triton.next_power_of_2(group)),
        SIZE=size,
        WIDTH=max(_LEAST, triton.next_power_of_2(size)),
        BLOCK=32 if is_float32 or size > 128 else 64,
        PRECISION="ieee" if is_float32 else "tf32",
        num_warps=4,
    )
    return output


@attend.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, places: Tensor, scale: float
) -> Tensor:
    return torch.empty(query.shape, dtype=query.dtype, device=query.device)


@triton.jit
def _attend(
    query,
    key,
    value,
    keys,
    values,
    places,
    output,
    scale,
    value_stride,
    num_columns,
    GROUP: tl.constexpr,  # noqa: N803
    MEMBERS: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):
    slot = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    first = tl.load(places + 2 * tl.program_id(0)).to(tl.int32)
    last = tl.load(places + 2 * tl.program_id(0) + 1).to(tl.int32)
    member, place = tl.arange(0, MEMBERS), tl.arange(0, WIDTH)
    inside = place < SIZE
    spots = slot * GROUP * SIZE + member[:, None] * SIZE + place[None, :]
    held = (member[:, None] < GROUP) & inside[None, :]
    asked = tl.load(query + spots, mask=held, other=0.0)
    cache = slot * num_columns * SIZE
    new_key = tl.load(key + slot * SIZE + place, mask=inside, other=0.0)
    of_value = tl.program_id(0).to(tl.int64) * value_stride + tl.program_id(1) * SIZE
    new_value = tl.load(value + of_value + place, mask=inside, other=0.0)
    tl.store(keys + cache + last * SIZE + place, new_key, mask=inside)
    tl.store(values + cache + last * SIZE + place, new_value, mask=inside)
    best = tl.full([MEMBERS], float("-inf"), tl.float32)
    total = tl.zeros([MEMBERS], tl.float32)
    mixed = tl.zeros([MEMBERS, WIDTH], tl.float32)
    for start in range(first // BLOCK * BLOCK, last + 1, BLOCK):
        column = start + tl.arange(0, BLOCK)
        shown = (column >= first) & (column <= last)
        where = cache + column[:, None] * SIZE + place[None, :]
        # The new token is not read back, and is a column like any other, so that its weight is rounded like theirs.
        is_new = (column == last)[:, None]
        read = (shown & (column < last))[:, None] & inside[None, :]
        read_keys = tl.where(is_new, new_key[None, :], tl.load(keys + where, mask=read, other=0.0))
        scores = tl.dot(asked, tl.trans(read_keys), input_precision=PRECISION) * scale
        scores = tl.where(shown[None, :], scores, float("-inf"))
        highest = tl.maximum(best, tl.max(scores, axis=1))
        weights = tl.exp(scores - highest[:, None])
        kept = tl.exp(best - highest)
        read_values = tl.where(is_new, new_value[None, :], tl.load(values + where, mask=read, other=0.0))
        total = total * kept + tl.sum(weights, axis=1)
        mixed = mixed * kept[:, None] + tl.dot(
            weights.to(read_values.dtype), read_values, input_precision=PRECISION
        )
        best = highest
    tl.store(output + spots, (mixed / total[:, None]).to(output.dtype.element_ty), mask=held)
