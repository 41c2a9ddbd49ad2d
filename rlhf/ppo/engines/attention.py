"""Attention of one new token a slot, as transformers calls it."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from rlhf.ppo.engines.caches import Pending

DECODE_ATTENTION = "rlhf_decode"


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Pending,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Heads that share keys are rows of one product, and no key is repeated for them.

    Args:
        module: unread.
        query: [n, Q, 1, D], Q a multiple of the H heads of keys.
        key: of a `SlotLayer`.
        value: [n, H, 1, D].
        attention_mask: [n, 1, 1, 2] int64, what stands in a mask's place: the first column that a slot looks at, and
            its own, the last. Of four dimensions, so that transformers passes it on as it is.
        scaling: of the scores; 1 / sqrt(D) where None.
        **others: unread.

    Returns:
        [n, 1, Q, D], and no weights.
    """
    rows, heads, _, size = query.shape
    shared = value.shape[1]
    grouped = query.reshape(rows, shared, heads // shared, size)
    scale = size**-0.5 if scaling is None else scaling
    mixed = key.layer.attend(grouped, key.key, value, attention_mask[:, 0, 0], scale)
    return mixed.reshape(rows, 1, heads, size), None


AttentionInterface.register(DECODE_ATTENTION, decode_attention)
