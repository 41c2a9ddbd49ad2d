"""What a response mask must be, and how it is applied; shared by advantages and losses, of no use outside them."""

import torch
from torch import Tensor


def check_mask(mask: Tensor, **tensors: Tensor | None) -> None:
    """Refuse a mask that would silently move or broadcast what it selects.

    The last dimension of a mask with two or more is time, and what is kept starts at column 0 without
    holes. A mask of one dimension selects rows or single tokens, in any pattern. For holes it looks on a CPU alone: on
    a GPU it would have to wait for the device.

    Args:
        mask: [..., T] or [N] bool, True = keep.
        **tensors: what the mask is applied to, by the caller's names; None is passed over.

    Raises:
        ValueError: not bool, a tensor of another shape, or (on a CPU) a row with a hole.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"a mask is bool, True = keep; this one is {mask.dtype}")
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != mask.shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, its mask {list(mask.shape)}")
    if mask.ndim > 1 and not mask.is_cuda:
        resumed = (mask[..., 1:] & ~mask[..., :-1]).flatten(0, -2).any(dim=-1)
        if bool(resumed.any()):
            rows = resumed.nonzero().flatten().tolist()
            raise ValueError(
                f"the mask is not contiguous from column 0 in rows {rows[:8]}: holes are refused"
            )


def keep(x: Tensor, mask: Tensor) -> Tensor:
    """Return x in float32 with 0 outside the mask.

    A selection, not a product: 0 x NaN is NaN, in the value and in the gradient.
    """
    return torch.where(mask, x.float(), 0.0)
