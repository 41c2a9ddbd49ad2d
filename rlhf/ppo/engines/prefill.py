"""Prompts of the `graph` engine, computed in one pass for many, and copied into slots as these become free."""

from collections import deque
from collections.abc import Sequence

import torch
from transformers import Cache, PreTrainedModel

from rlhf.models.forward import pad_right
from rlhf.models.load import backbone_of, layers_of
from rlhf.models.transfer import to_device
from rlhf.ppo.engines.caches import PromptLayer, SlotLayer
from rlhf.ppo.engines.slots import keys_and_values

PREFILL_TOKENS = 32_768


class Prefill:
    """Prompts of waiting rows, computed many at a time, before a slot is free: then only a copy is left to do.

    Args:
        model: a tree of a `Shadow`.
        prompts: all of the call, the shortest of which go first; rows of one prompt share its computation.

    Attributes:
        num_waiting: rows that have no slot yet.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[list[int]]) -> None:
        self._model, self._prompts = model, prompts
        order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row]))
        self._parts = deque(_parts(order, prompts))
        self._ready: deque[tuple[int, int]] = deque()  # row, place in the cache
        self._cache: Cache | None = None
        self.num_waiting = len(prompts)

    def fill(self, slots: list[int], layers: Sequence[SlotLayer]) -> list[int]:
        """Give prompts without their last token to some slots; the rows that came to them, fewer where fewer wait."""
        given: list[int] = []
        while len(given) < len(slots) and self.num_waiting:
            if not self._ready:
                self._compute()
            free = slots[len(given) :]
            part = [self._ready.popleft() for _ in range(min(len(free), len(self._ready)))]
            self._write(free[: len(part)], [place for _, place in part], layers)
            given += [row for row, _ in part]
            self.num_waiting -= len(part)
        return given

    def _compute(self) -> None:
        rows = self._parts.popleft()
        places: dict[tuple[int, ...], int] = {}
        for row in rows:
            context = tuple(self._prompts[row][:-1])
            self._ready.append((row, places.setdefault(context, len(places))))
        self._cache = None  # frees its memory first
        if any(places):
            self._cache = filled(self._model, [list(context) for context in places])

    def _write(self, slots: list[int], places: list[int], layers: Sequence[SlotLayer]) -> None:
        if self._cache is not None:
            device = keys_and_values(self._cache.layers[0])[0].device
            target, source = to_device(torch.tensor([slots, places]), device)
            for layer, filled in zip(layers, self._cache.layers, strict=True):
                layer.fill(target, *(part[source] for part in keys_and_values(filled)))
        if not self._ready:
            self._cache = None


def filled(model: PreTrainedModel, contexts: list[list[int]]) -> Cache:
    """Keys and values of contexts, right-padded: what lies behind a row's end is never looked at."""
    ids, _ = pad_right(contexts, next(model.parameters()).device)
    cache = Cache(layers=[PromptLayer() for _ in layers_of(model)])
    backbone_of(model)(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache


def _parts(rows: list[int], prompts: Sequence[list[int]]) -> list[list[int]]:
    """Rows, shortest prompts first, cut so that a part with its padding has at most `PREFILL_TOKENS`."""
    parts: list[list[int]] = []
    for row in rows:
        if not parts or (len(parts[-1]) + 1) * len(prompts[row]) > PREFILL_TOKENS:
            parts.append([])
        parts[-1].append(row)
    return parts
