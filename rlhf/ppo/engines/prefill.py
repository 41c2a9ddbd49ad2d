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
        at_once: prompts computed in one pass, at most; with padding they have at most `PREFILL_TOKENS` tokens, or are one.

    Attributes:
        num_waiting: rows that have no slot yet.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[list[int]], at_once: int) -> None:
        self._model = model
        self._rows: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(prompts):
            self._rows.setdefault(tuple(prompt[:-1]), []).append(row)
        self._parts = deque(_parts(sorted(self._rows, key=len), at_once))
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
        contexts = self._parts.popleft()
        self._ready += [(row, place) for place, each in enumerate(contexts) for row in self._rows[each]]
        self._cache = None  # frees its memory first
        if any(contexts):
            self._cache = filled(self._model, [list(each) for each in contexts])

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


def _parts(contexts: list[tuple[int, ...]], at_once: int) -> list[list[tuple[int, ...]]]:
    """Contexts, shortest first, cut into what one pass computes."""
    parts: list[list[tuple[int, ...]]] = []
    for context in contexts:
        size = len(parts[-1]) if parts else at_once
        if size == at_once or (size + 1) * len(context) > PREFILL_TOKENS:
            parts.append([])
        parts[-1].append(context)
    return parts
