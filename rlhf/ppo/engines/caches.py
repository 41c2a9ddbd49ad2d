"""Keys and values of one layer, as transformers' models fill and read them: of whole prompts, and of slots that decode.

S slots, H heads of keys, L columns, D head size.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from rlhf.ppo.triton_there import takes_kernels

_ROOM_AHEAD = 64
"""Columns."""


class GrowingLayer(DynamicLayer):
    """As its base, but a token is written into room that is there, where the base copies all that came before it."""

    _rooms: tuple[Tensor, ...] = ()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep them behind the others; all keys and values [B, H, L, D], views of the room."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.get_seq_length(), (key_states, value_states)
        end = start + key_states.shape[-2]
        if not self._rooms or self._rooms[0].shape[-2] < end:
            rooms = tuple(_longer(part, end + _ROOM_AHEAD) for part in new)
            for room, old in zip(rooms, self._rooms or rooms, strict=True):
                room[:, :, :start] = old[:, :, :start]
            self._rooms = rooms
        for room, part in zip(self._rooms, new, strict=True):
            room[:, :, start:end] = part
        return self._shown(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only keep these rows; a layer that the model passes over holds none."""
        if self._rooms:
            length = self.get_seq_length()
            self._rooms = tuple(room[indices] for room in self._rooms)
            self._shown(length)

    def _shown(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (room[:, :, :length] for room in self._rooms)
        self.keys, self.values = keys, values
        return keys, values


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
        self.keys, self.values = keys, values  # for the base class, to which they may be None
        self._all: tuple[Tensor, Tensor] = keys, values
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
        if takes_kernels(query):
            from rlhf.ppo.engines.kernels import attend

            return attend(query, key, value, *self._all, places, scale)
        keys, values = self._all
        slots, first, last = torch.arange(len(query), device=query.device), places[:, :1], places[:, 1:]
        keys[slots, :, places[:, 1]] = key[:, :, 0]
        values[slots, :, places[:, 1]] = value[:, :, 0]
        columns = torch.arange(keys.shape[2], device=query.device)
        mask = (columns >= first) & (columns <= last)
        return F.scaled_dot_product_attention(
            query,
            keys[: len(query)],
            values[: len(query)],
            attn_mask=mask[:, None, None, :],
            scale=scale,
        )

    def fill(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write the first columns of some slots."""
        for room, part in zip(self._all, (keys, values), strict=True):
            room[slots, :, : part.shape[2]] = part

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots."""
        for room in self._all:
            room[targets] = room[sources]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the memory is there from the start."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The decoder gives what stands in the mask's place, so no one asks in earnest."""
        return self._all[0].shape[2], 0

    def get_seq_length(self) -> int:
        """Every slot has a length of its own; positions are given."""
        return 0

    def get_max_length(self) -> int:
        """Columns."""
        return self._all[0].shape[2]


class Pending(NamedTuple):
    """A token's keys [n, H, 1, D] on their way to attention, and the layer that will hold them."""

    layer: SlotLayer
    key: Tensor


def _longer(example: Tensor, num_columns: int) -> Tensor:
    rows, heads, _, size = example.shape
    return example.new_empty(rows, heads, num_columns, size)
