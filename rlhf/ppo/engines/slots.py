"""What the `graph` engine keeps between steps, at fixed addresses: one slot a response that is being decoded.

S slots, L columns of keys and values, R responses of at most T tokens. A slot's cache is left-aligned: its token at
position p lies in column p, whatever the other slots hold, so that a slot can be given to another response at any time.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache

from rlhf.models.transfer import to_device
from rlhf.ppo.engines.caches import SlotLayer
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.engines.supports import packed
from rlhf.ppo.triton_there import takes_kernels


@dataclass(frozen=True)
class Shape:
    """How much room there is.

    Attributes:
        num_slots: responses decoded at once.
        num_columns: longest prompt and response together.
        num_rows: responses of one call.
        num_tokens: longest response.
        num_vocabulary: tokens that there are.
    """

    num_slots: int
    num_columns: int
    num_rows: int
    num_tokens: int
    num_vocabulary: int

    def holds(self, other: "Shape") -> bool:
        """Whether the other fits into it and is decoded with as many slots."""
        return (
            (self.num_slots, self.num_vocabulary) == (other.num_slots, other.num_vocabulary)
            and self.num_columns >= other.num_columns
            and self.num_rows >= other.num_rows
            and self.num_tokens >= other.num_tokens
        )

    def joined(self, other: "Shape") -> "Shape":
        """Room for both."""
        return Shape(*map(max, astuple(self), astuple(other)))


class Slots:
    """The slots, and what has been sampled; row R of the results takes what idle slots write.

    Args:
        shape: room.
        example: a cache of one token, whose layers' shapes and dtype it takes.
        device: where it lies.

    Attributes:
        tokens: [S] int64, the token that a slot reads next.
        positions: [S] int64, where.
        rows: [S] int64, which response it decodes; R where it is idle.
        steps: [S] int64, tokens sampled.
        ended: [S] bool; an idle slot is ended.
        noise: [R + 1, T] float32.
        stops: [V] bool, tokens that end a response.
        limit: 0-dim int64, the longest response of this call.
        response_ids: [R + 1, T] int64.
        logprobs: [R + 1, T] float32.
        lengths: [R + 1] int64.
        by_token: [R + 1] bool, whether a stop token ended it.
        by_text: [R + 1] bool, whether a stop text did.
        supports: [R + 1, T, ceil(V / 8)] uint8, what was sampled from, see `packed`; None before a call that cuts it.
    """

    def __init__(self, shape: Shape, example: Cache, device: torch.device) -> None:
        slots, rows, tokens = shape.num_slots, shape.num_rows + 1, shape.num_tokens

        def zeros(*sizes: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(*sizes, dtype=dtype, device=device)

        self.shape = shape
        self.idle_row = shape.num_rows
        self.tokens, self.positions, self.steps = zeros(slots), zeros(slots), zeros(slots)
        self.rows = torch.full((slots,), self.idle_row, device=device)
        self.ended = torch.ones(slots, dtype=torch.bool, device=device)
        self.noise = zeros(rows, tokens, dtype=torch.float32)
        self.stops = zeros(shape.num_vocabulary, dtype=torch.bool)
        self.limit = torch.tensor(0, device=device)
        self.response_ids = zeros(rows, tokens)
        self.logprobs = zeros(rows, tokens, dtype=torch.float32)
        self.lengths = zeros(rows)
        self.by_token = zeros(rows, dtype=torch.bool)
        self.by_text = zeros(rows, dtype=torch.bool)
        self.supports: Tensor | None = None
        self.layers = [
            SlotLayer(*(_room(part, slots, shape.num_columns) for part in keys_and_values(layer)))
            for layer in example.layers
        ]
        self.cache = Cache(layers=list(self.layers))

    def begin(self, noise: Tensor, stop_ids: Sequence[int], *, cuts: bool = False) -> None:
        """Empty all slots and results for a call with noise [B, T], which samples from less than all tokens or not."""
        if cuts and self.supports is None:
            width = -(-self.shape.num_vocabulary // 8)
            self.supports = torch.zeros(*self.noise.shape, width, dtype=torch.uint8, device=self.noise.device)
        self.rows.fill_(self.idle_row)
        self.ended.fill_(True)
        self.positions.zero_()
        self.steps.zero_()
        self.lengths.zero_()
        self.by_token.zero_()
        self.by_text.zero_()
        self.noise[: len(noise), : noise.shape[1]] = noise
        self.limit.fill_(noise.shape[1])
        self.stops.zero_()
        known = [token for token in stop_ids if token < len(self.stops)]
        self.stops[torch.tensor(known, dtype=torch.long, device=self.stops.device)] = True

    def admit(self, slots: list[int], rows: list[int], prompts: list[list[int]]) -> None:
        """Give slots to responses whose prompts, but for the last token, are in the cache."""
        device = self.tokens.device
        plain = [slots, rows, [prompt[-1] for prompt in prompts], [len(prompt) - 1 for prompt in prompts]]
        where, of_row, last, position = to_device(torch.tensor(plain), device)
        self.tokens[where], self.positions[where], self.rows[where] = last, position, of_row
        self.steps[where] = 0
        self.ended[where] = False

    def settle(self, tokens: Tensor, logprobs: Tensor) -> None:
        """Write down a token drawn for each of the first slots, and advance them, or end them.

        Args:
            tokens: [n] int64.
            logprobs: [n] float32.
        """
        if takes_kernels(tokens):
            from rlhf.ppo.engines.slot_kernels import settle

            settle(self, tokens, logprobs)
            return
        first = slice(None, len(tokens))
        positions, rows, steps = self.positions[first], self.rows[first], self.steps[first]
        self.response_ids[rows, steps] = tokens
        self.logprobs[rows, steps] = logprobs
        self.lengths[rows] = steps + 1
        stopped = self.stops[tokens]
        self.by_token[rows] = stopped
        ended = stopped | (steps + 1 >= self.limit) | self.ended[first]
        going = (~ended).long()
        self.tokens[first] = tokens
        self.rows[first] = torch.where(ended, self.idle_row, rows)
        self.ended[first] = ended
        # An ended slot goes back to column 0, which every step shows.
        positions.copy_((positions + 1) * going)
        steps += going

    def keep_support(self, support: Tensor) -> None:
        """Write down what the next token of each of the first slots is drawn from: [n, V] bool; before `settle`."""
        first = slice(None, len(support))
        cast(Tensor, self.supports)[self.rows[first], self.steps[first]] = packed(support)

    def end_at_texts(self, slots: list[int], rows: list[int], texts: StopTexts, num_newest: int) -> None:
        """End responses whose newest tokens complete a stop text, at the token that does first; what follows is cut.

        Args:
            slots: in use, or ended since the last call.
            rows: the response that each has decoded.
            texts: what ends them.
            num_newest: tokens sampled since the last call, at most.
        """
        where, of_row = to_device(torch.tensor([slots, rows]), self.tokens.device)
        lengths = self.lengths[of_row]
        ends, found = texts.first_end(self.response_ids[of_row], lengths, num_newest)
        self.lengths[of_row] = ends
        self.by_token[of_row] &= ends == lengths
        self.by_text[of_row] |= found
        ended = self.ended[where] | found
        self.ended[where] = ended
        self.rows[where] = torch.where(ended, self.idle_row, self.rows[where])
        self.positions[where] *= (~ended).long()

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy slots to others, and leave the first idle."""
        source, target = to_device(torch.tensor([sources, targets]), self.tokens.device)
        for layer in self.layers:
            layer.move(source, target)
        for state in (self.tokens, self.positions, self.rows, self.steps, self.ended):
            state[target] = state[source]
        self.rows[source] = self.idle_row
        self.ended[source] = True


def keys_and_values(layer: Any) -> tuple[Tensor, Tensor]:
    """What a layer of a filled cache holds: [B, heads, L, head size] each."""
    return layer.keys, layer.values


def _room(example: Tensor, num_slots: int, num_columns: int) -> Tensor:
    _, num_heads, _, size = example.shape
    return torch.zeros(num_slots, num_heads, num_columns, size, dtype=example.dtype, device=example.device)
