"""One token for every slot of the `graph` engine: a forward pass and a draw, captured in a CUDA graph or called as it is."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.models.load import backbone_of, output_head_of
from rlhf.ppo.engines.sampling import SamplingParams, sample_tokens
from rlhf.ppo.engines.slots import Slots

Key = tuple[int, SamplingParams]
"""Slots, and how they are sampled."""


class Decoder:
    """Advances slots by one token.

    Args:
        model: a tree of a `Shadow` with `DECODE_ATTENTION`.
        slots: what it reads and writes.
        capture: record each kind of step as a CUDA graph at its second use; False calls it, as on a CPU.
    """

    def __init__(self, model: PreTrainedModel, slots: Slots, *, capture: bool) -> None:
        self._slots = slots
        self._head = output_head_of(model)
        self._windows = _windows(model)
        self._forward: Callable[..., Any] = backbone_of(model).forward
        self._capture = capture
        self._graphs: dict[Key, torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None

    @property
    def num_graphs(self) -> int:
        """Graphs captured."""
        return sum(graph is not None for graph in self._graphs.values())

    def advance(self, num_slots: int, params: SamplingParams) -> None:
        """Sample a token for each of the first slots."""
        key = (num_slots, params)
        if not self._capture:
            self._step(*key)
        elif key not in self._graphs:
            # The first use allocates and tunes what a capture must not; it counts as a step like any other.
            self._graphs[key] = None
            self._step(*key)
        else:
            graph = self._graphs[key]
            if graph is None:
                graph = self._graphs[key] = self._captured(key)
            graph.replay()

    def _captured(self, key: Key) -> torch.cuda.CUDAGraph:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may call CUDA meanwhile, such as NCCL's watchdog.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._step(*key)
        return graph

    def _step(self, num_slots: int, params: SamplingParams) -> None:
        slots, first = self._slots, slice(None, num_slots)
        positions = slots.positions[first]
        outputs = self._forward(
            # Copies: a view of the slots would let torch.compile tie the first size to all slots.
            input_ids=slots.tokens[first].clone()[:, None],
            attention_mask=self._places(positions),
            position_ids=positions.clone()[:, None],
            past_key_values=slots.cache,
            use_cache=True,
        )
        logits = self._head(cast(Tensor, outputs.last_hidden_state)[:, -1])
        noise = slots.noise[slots.rows[first], slots.steps[first]]
        draw = sample_tokens(logits, noise, params.temperature, top_p=params.top_p, min_p=params.min_p)
        if draw.support is not None:
            slots.keep_support(draw.support)
        slots.settle(draw.tokens, draw.logprobs)

    def _places(self, positions: Tensor) -> Tensor | dict[str, Tensor]:
        """What `decode_attention` reads in a mask's place: one, or one a kind of layer."""
        places = {kind: _place(positions, window) for kind, window in self._windows.items()}
        return places if len(places) > 1 else next(iter(places.values()))


def _place(positions: Tensor, window: int | None) -> Tensor:
    first = torch.zeros_like(positions) if window is None else (positions - window + 1).clamp(min=0)
    return torch.stack([first, positions], dim=-1)[:, None, None, :]


def _windows(model: PreTrainedModel) -> dict[str, int | None]:
    """Kind of layer -> the tokens that it looks back on; None: all."""
    config: Any = model.config
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return {"full_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}
