"""One token for every slot of the `graph` engine: a forward pass and a draw, captured in a CUDA graph or called as it is."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rlhf.models.load import backbone_of, output_head_of
from rlhf.ppo.engines.sampling import sample_tokens
from rlhf.ppo.engines.slots import Slots

DECODE_ATTENTION = "rlhf_decode"
Key = tuple[int, int, float]
"""Slots, columns, temperature."""


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one token a row: heads that share keys are rows of one product, and no key is repeated for them.

    Args:
        module: unread.
        query: [n, Q, 1, D], Q a multiple of the H heads of keys.
        key, value: [n, H, L, D].
        attention_mask: [n, 1, 1, L], bool or to be added.
        scaling: of the scores; 1 / sqrt(D) where None.
        **others: unread.

    Returns:
        [n, 1, Q, D], and no weights.
    """
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    mixed = F.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return mixed.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(DECODE_ATTENTION, decode_attention)


class Decoder:
    """Advances slots by one token.

    Args:
        model: a tree of a `Shadow` with `DECODE_ATTENTION`.
        slots: what it reads and writes.
        capture: record each kind of step as a CUDA graph at its second use; False calls it, as on a CPU.
        compiled: let torch.compile fuse the forward pass.
    """

    def __init__(self, model: PreTrainedModel, slots: Slots, *, capture: bool, compiled: bool) -> None:
        self._slots = slots
        self._head = output_head_of(model)
        self._windows = _windows(model)
        forward, draw = backbone_of(model).forward, sample_tokens
        if compiled:
            forward = torch.compile(forward, dynamic=True)
            draw = torch.compile(draw, dynamic=True)
        self._forward: Callable[..., Any] = forward
        self._draw = draw
        self._capture = capture
        self._graphs: dict[Key, torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None

    @property
    def num_graphs(self) -> int:
        """Graphs captured."""
        return sum(graph is not None for graph in self._graphs.values())

    def advance(self, num_slots: int, num_columns: int, temperature: float) -> None:
        """Sample a token for each of the first slots, none of whose positions lies at or behind `num_columns`."""
        key = (num_slots, num_columns, temperature)
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

    def _step(self, num_slots: int, num_columns: int, temperature: float) -> None:
        slots, first = self._slots, slice(None, num_slots)
        positions, rows, steps = slots.positions[first], slots.rows[first], slots.steps[first]
        for layer in slots.layers:
            layer.narrow(slots.index[first], positions, num_columns)
        outputs = self._forward(
            # Copies: a view of the slots would let torch.compile tie the first size to all slots.
            input_ids=slots.tokens[first].clone()[:, None],
            attention_mask=self._mask(positions, num_columns),
            position_ids=positions.clone()[:, None],
            past_key_values=slots.cache,
            use_cache=True,
        )
        logits = self._head(cast(Tensor, outputs.last_hidden_state)[:, -1])
        draw = self._draw(logits, slots.noise[rows, steps], temperature)
        slots.response_ids[rows, steps] = draw.tokens
        slots.logprobs[rows, steps] = draw.logprobs
        slots.lengths[rows] = steps + 1
        stopped = slots.stops[draw.tokens]
        slots.by_token[rows] = stopped
        ended = stopped | (steps + 1 >= slots.limit) | slots.ended[first]
        going = (~ended).long()
        slots.tokens[first] = draw.tokens
        slots.rows[first] = torch.where(ended, slots.idle_row, rows)
        slots.ended[first] = ended
        # An ended slot goes back to column 0, which every step shows.
        positions.copy_((positions + 1) * going)
        steps += going

    def _mask(self, positions: Tensor, num_columns: int) -> Tensor | dict[str, Tensor]:
        """[n, 1, 1, L] to be added to scores, or one a kind of layer: it lets through what lies at or before a slot's position, within the layer's window."""
        columns = self._slots.columns[:num_columns]
        causal = columns <= positions[:, None]
        masks = {
            kind: causal if window is None else causal & (columns > positions[:, None] - window)
            for kind, window in self._windows.items()
        }
        shaped = {kind: self._additive(mask)[:, None, None, :] for kind, mask in masks.items()}
        return shaped if len(shaped) > 1 else next(iter(shaped.values()))

    def _additive(self, mask: Tensor) -> Tensor:
        """0 or -inf, which attention adds: it would make them of a bool mask anew in each layer."""
        zeros = torch.zeros(mask.shape, dtype=self._slots.dtype, device=mask.device)
        return zeros.masked_fill_(~mask, -torch.inf)


def _windows(model: PreTrainedModel) -> dict[str, int | None]:
    """Kind of layer -> the tokens that it looks back on; None: all."""
    config: Any = model.config
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return {"full_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}
