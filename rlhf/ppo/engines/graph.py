"""The `graph` engine: decoding in CUDA graphs, over a key-value cache that is allocated once, on the weights of a `Shadow`.

Slots decode side by side, each at its own position. A response that ends leaves its slot to a waiting prompt; once none
waits, the slots still in use move together and smaller graphs go on. The host looks at who has ended every 8 tokens, a few
tokens before the device has done what it was given, so that it never waits. On a CPU the same steps run without capture.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.models.compiling import compile_for_caches
from rlhf.models.load import output_head_of
from rlhf.models.transfer import OnItsWay
from rlhf.ppo.engines.attention import DECODE_ATTENTION
from rlhf.ppo.engines.base import Generation, finish_reasons, require_numbers
from rlhf.ppo.engines.decoder import Decoder
from rlhf.ppo.engines.prefill import Prefill, filled
from rlhf.ppo.engines.sampling import SamplingParams
from rlhf.ppo.engines.shadow import Shadow
from rlhf.ppo.engines.slots import Shape, Slots
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.engines.supports import ids_of_tokens

LOOK_EVERY_TOKENS = 8
_AHEAD = 3
"""Tokens that the device has yet to sample when it tells who has ended: the host's work hides behind them."""
_COLUMNS = 64
_SMALLEST = 8
_ADMITTED_TOGETHER = 16
"""Waiting prompts come in once one slot in so many is free."""


class GraphEngine:
    """Keeps its slots, graphs and weights between calls; of use while a policy of one shape is sampled again and again.

    Args:
        num_slots: responses decoded at once.
        dtype: to decode in: bfloat16 under autocast, else that of the weights.
        compiled: let torch.compile fuse the forward pass; pays once for half a minute of compiling.
        max_length: of prompt and response together, so that no later call needs more room, and all graphs anew.
        copied: decode on a copy of the weights whatever their dtype, where they are whole while it samples alone.
        stop_texts: texts that end a response besides its stop tokens.

    Attributes:
        num_graphs: CUDA graphs captured so far.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        dtype: torch.dtype,
        compiled: bool = False,
        max_length: int = 0,
        copied: bool = False,
        stop_texts: StopTexts | None = None,
    ) -> None:
        self.num_slots = num_slots
        self.copied = copied
        self.stop_texts = stop_texts
        self.max_length = max_length
        self.dtype = dtype
        self.compiled = compiled
        self._shadow: Shadow | None = None
        self._trees: tuple[PreTrainedModel, PreTrainedModel] | None = None  # of prompts, of steps
        self._slots: Slots | None = None
        self._decoder: Decoder | None = None

    @property
    def num_graphs(self) -> int:
        """CUDA graphs captured so far."""
        return 0 if self._decoder is None else self._decoder.num_graphs

    @torch.no_grad()
    def generate(
        self,
        policy: nn.Module,
        prompts: Sequence[list[int]],
        noise: Tensor,
        *,
        temperature: float,
        stop_ids: tuple[int, ...],
        top_p: float = 1.0,
        min_p: float = 0.0,
    ) -> Generation:
        """See `GenerationEngine.generate`.

        Raises:
            ValueError: a prompt without a token.
        """
        if not all(prompts):
            raise ValueError("a prompt has no token")
        params = SamplingParams(temperature, top_p, min_p)
        noise = noise.to(next(policy.parameters()).device)
        with torch.autocast(noise.device.type, enabled=False):
            model, slots, decoder = self._prepared(policy, prompts, noise)
            slots.begin(noise, stop_ids, cuts=params.cuts)
            prefill = Prefill(model, prompts, slots.shape.num_slots)
            _Call(prefill, slots, decoder, list(prompts), noise.shape[1], params, self.stop_texts).run()
        return _generation(slots, len(prompts), cuts=params.cuts)

    def _prepared(
        self, policy: nn.Module, prompts: Sequence[list[int]], noise: Tensor
    ) -> tuple[PreTrainedModel, Slots, Decoder]:
        """The weights of now, and room for the call: what is there, where it is large enough."""
        if self._trees is None or self._shadow is None or not self._shadow.holds(policy):
            self._slots = self._decoder = self._trees = self._shadow = None  # frees the memory first
            self._shadow = Shadow(policy, self.dtype, copied=self.copied)
            steps = self._shadow.tree(DECODE_ATTENTION, joined=True)
            self._trees = self._shadow.tree("sdpa"), steps
            if self.compiled:
                for tree in self._trees:
                    compile_for_caches(tree)
        else:
            self._shadow.refresh(policy)
        model, steps = self._trees
        longest = max(self.max_length, max(map(len, prompts)) + noise.shape[1])
        columns = -longest % _COLUMNS + longest
        vocabulary = cast(Tensor, output_head_of(model).weight).shape[0]
        shape = Shape(self.num_slots, columns, len(noise), noise.shape[1], vocabulary)
        if self._slots is None or not self._slots.shape.holds(shape):
            shape = shape if self._slots is None else shape.joined(self._slots.shape)
            self._decoder = self._slots = None  # frees the memory first
            self._slots = Slots(shape, filled(model, [[0]]), noise.device)
        if self._decoder is None:
            self._decoder = Decoder(steps, self._slots, capture=noise.device.type == "cuda")
        return model, self._slots, self._decoder


class _Call:
    """The host's side of one call: who is in which slot."""

    def __init__(
        self,
        prefill: Prefill,
        slots: Slots,
        decoder: Decoder,
        prompts: list[list[int]],
        num_tokens: int,
        params: SamplingParams,
        stop_texts: StopTexts | None,
    ) -> None:
        self.stop_texts = stop_texts
        self.prefill, self.slots, self.decoder = prefill, slots, decoder
        self.prompts, self.num_tokens, self.params = prompts, num_tokens, params
        self.sizes = _sizes(min(slots.shape.num_slots, len(prompts)), slots.shape.num_slots)
        self.size = self.sizes[-1]
        self.row_of: dict[int, int] = {}
        self.steps: dict[int, int] = {}

    def run(self) -> None:
        while self.prefill.num_waiting or self.row_of:
            self._admit()
            self._draw_together()
            left = max(self.num_tokens - done for done in self.steps.values())
            steps = min(LOOK_EVERY_TOKENS, left)
            before = max(0, steps - _AHEAD)
            self._advance(before)
            ended = OnItsWay(self.slots.ended)
            self._advance(steps - before)
            for slot in self.steps:
                self.steps[slot] += steps
            if self.stop_texts is not None:
                slots, rows = list(self.row_of), list(self.row_of.values())
                self.slots.end_at_texts(slots, rows, self.stop_texts, steps)
            self._free(ended.arrived().tolist())

    def _advance(self, steps: int) -> None:
        for _ in range(steps):
            self.decoder.advance(self.size, self.params)

    def _admit(self) -> None:
        """Fill free slots once there are enough of them for a copy to pay."""
        free = [slot for slot in range(self.size) if slot not in self.row_of]
        enough = min(self.prefill.num_waiting, max(1, self.size // _ADMITTED_TOGETHER))
        if not self.prefill.num_waiting or len(free) < enough:
            return
        rows = self.prefill.fill(free, self.slots.layers)
        taken = free[: len(rows)]
        self.slots.admit(taken, rows, [self.prompts[row] for row in rows])
        self.row_of |= dict(zip(taken, rows, strict=True))
        self.steps |= dict.fromkeys(taken, 0)

    def _draw_together(self) -> None:
        """Once no prompt waits, let the smallest captured size do that holds the slots in use."""
        if self.prefill.num_waiting:
            return
        size = next(size for size in self.sizes if size >= len(self.row_of))
        if size == self.size:
            return
        sources = sorted(slot for slot in self.row_of if slot >= size)
        free = [slot for slot in range(size) if slot not in self.row_of]
        if sources:
            targets = free[: len(sources)]
            self.slots.move(sources, targets)
            for source, target in zip(sources, targets, strict=True):
                self.row_of[target] = self.row_of.pop(source)
                self.steps[target] = self.steps.pop(source)
        self.size = size

    def _free(self, ended: list[bool]) -> None:
        """Take back slots whose response has ended: by its length, which the host knows, or by what it has seen."""
        for slot in list(self.row_of):
            if ended[slot] or self.steps[slot] >= self.num_tokens:
                del self.row_of[slot], self.steps[slot]


def _generation(slots: Slots, num_rows: int, *, cuts: bool) -> Generation:
    lengths = slots.lengths[:num_rows]
    longest = int(lengths.max())
    require_numbers(slots.logprobs[:num_rows])
    support = None
    if cuts:
        bits = cast(Tensor, slots.supports)[:num_rows]
        support = ids_of_tokens(bits, lengths.tolist(), slots.shape.num_vocabulary)
    mask = torch.arange(longest, device=lengths.device) < lengths[:, None]
    return Generation(
        slots.response_ids[:num_rows, :longest].masked_fill(~mask, 0),
        mask,
        slots.logprobs[:num_rows, :longest].masked_fill(~mask, 0.0),
        finish_reasons(slots.by_token[:num_rows], slots.by_text[:num_rows]),
        support,
    )


def _sizes(wanted: int, num_slots: int) -> list[int]:
    """Numbers of slots that a step may advance, ascending: each about 3/4 or 2/3 of the next; the largest holds `wanted`."""
    sizes, size = {num_slots}, num_slots
    while size > _SMALLEST:
        sizes |= {max(3 * size // 4, _SMALLEST), max(size // 2, _SMALLEST)}
        size //= 2
    return sorted(each for each in sizes if each <= min(each2 for each2 in sizes if each2 >= wanted))
