"""What a drawn token changes in its slot, in one Triton kernel: `Slots.settle`; imported on a GPU alone."""

from typing import TYPE_CHECKING, Any, cast

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

if TYPE_CHECKING:
    from rlhf.ppo.engines.slots import Slots

_SIZE = 128


def settle(slots: "Slots", tokens: Tensor, logprobs: Tensor) -> None:
    """See `Slots.settle`."""
    num_slots = len(tokens)
    cast(Any, _settle)[(triton.cdiv(num_slots, _SIZE),)](
        tokens,
        logprobs,
        slots.tokens,
        slots.positions,
        slots.rows,
        slots.steps,
        slots.ended.view(torch.uint8),
        slots.stops.view(torch.uint8),
        slots.limit,
        slots.response_ids,
        slots.logprobs,
        slots.lengths,
        slots.by_token.view(torch.uint8),
        num_slots,
        slots.idle_row,
        slots.response_ids.shape[1],
        SIZE=_SIZE,
        num_warps=4,
    )


@triton.jit
def _settle(
    drawn,
    of_drawn,
    tokens,
    positions,
    rows,
    steps,
    ended,
    stops,
    limit,
    response_ids,
    logprobs,
    lengths,
    by_token,
    num_slots,
    idle_row,
    num_tokens,
    SIZE: tl.constexpr,  # noqa: N803
):
    slot = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    there = slot < num_slots
    token = tl.load(drawn + slot, mask=there, other=0)
    row = tl.load(rows + slot, mask=there, other=0)
    step = tl.load(steps + slot, mask=there, other=0)
    tl.store(response_ids + row * num_tokens + step, token, mask=there)
    of_token = tl.load(of_drawn + slot, mask=there, other=0.0)
    tl.store(logprobs + row * num_tokens + step, of_token, mask=there)
    tl.store(lengths + row, step + 1, mask=there)
    stopped = tl.load(stops + token, mask=there, other=0) != 0
    tl.store(by_token + row, stopped.to(tl.uint8), mask=there)
    was_ended = tl.load(ended + slot, mask=there, other=1) != 0
    over = stopped | (step + 1 >= tl.load(limit)) | was_ended
    position = tl.load(positions + slot, mask=there, other=0)
    tl.store(tokens + slot, token, mask=there)
    tl.store(rows + slot, tl.where(over, idle_row, row), mask=there)
    tl.store(ended + slot, over.to(tl.uint8), mask=there)
    tl.store(positions + slot, tl.where(over, 0, position + 1), mask=there)
    tl.store(steps + slot, tl.where(over, step, step + 1), mask=there)
