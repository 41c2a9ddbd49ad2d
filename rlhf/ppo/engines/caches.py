"""Keys and values of one layer, as transformers' models fill and read them: of whole prompts, and of slots that decode.

S slots, H heads of keys, L columns, D head size.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin


class PromptLayer(CacheLayerMixin):
    """Keeps what one forward pass over whole prompts computes: keys and values [B, H, L, D]."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep them, and return them."""
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Nothing was there before."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Nothing was there before."""
        return 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class SlotLayer(CacheLayerMixin):
    """Keys and values [S, H, L, D] of slots; the first ones decode, each at a position of its own.

    transformers updates a cache, then calls attention with what it got. Here the update only passes the new token on,
    and attention writes it and reads the cache, so that one kernel does both.
    """

    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype = keys.dtype
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Pass on one token a slot, [n, H, 1, D] each, and this layer with it."""
        return Pending(self, key_states), value_states

    def attend(self, query: Tensor, key: Tensor, value: Tensor, places: Tensor, scale: float) -> Tensor:
        """Write one token a slot and return its softmax-weighted values [n, H, G, D].

        Args:
            query: [n, H, G, D], G heads of queries to a head of keys.
            key, value: [n, H, 1, D].
            places: [n, 2] int64, the first column that a slot looks at, and its own, the last.
            scale: of the scores.
        """
        if query.is_cuda:
            from rlhf.ppo.engines.kernels import attend

            return attend(query, key, value, self.keys, self.values, places, scale)
        slots, first, last = torch.arange(len(query)), places[:, :1], places[:, 1:]
        self.keys[slots, :, places[:, 1]] = key[:, :, 0]
        self.values[slots, :, places[:, 1]] = value[:, :, 0]
        columns = torch.arange(self.keys.shape[2])
        mask = (columns >= first) & (columns <= last)
        return F.scaled_dot_product_attention(
            query,
            self.keys[: len(query)],
            self.values[: len(query)],
            attn_mask=mask[:, None, None, :],
            scale=scale,
        )

    def fill(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write the first columns of some slots."""
        self.keys[slots, :, : keys.shape[2]] = keys
        self.values[slots, :, : values.shape[2]] = values

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots."""
        self.keys[targets], self.values[targets] = self.keys[sources], self.values[sources]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the memory is there from the start."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The mask is given, so no one asks in earnest."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """Every slot has a length of its own; positions are given."""
        return 0

    def get_max_length(self) -> int:
        """Columns."""
        return self.keys.shape[2]


class Pending(NamedTuple):
    """A token's keys [n, H, 1, D] on their way to attention, and the layer that will hold them."""

    layer: SlotLayer
    key: Tensor
