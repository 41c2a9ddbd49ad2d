"""The `hf` engine: transformers' own forward with a growing key-value cache; runs everywhere."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache

from rlhf.models.forward import pad_left
from rlhf.models.load import backbone_of, inner_model_of, output_head_of, takes_shortcuts
from rlhf.models.mlps import mlps_on
from rlhf.ppo.engines.base import Generation, finish_reasons, require_numbers
from rlhf.ppo.engines.caches import GrowingLayer
from rlhf.ppo.engines.sampling import Draw, sample_tokens
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.engines.supports import ids_of


class HFEngine:
    """Decodes a batch of prompts after the other; rows that have ended leave their batch once they are a quarter of it.

    Args:
        batch_size: most prompts decoded at once; None: all of them.
        stop_texts: texts that end a response besides its stop tokens.
    """

    def __init__(self, *, batch_size: int | None = None, stop_texts: StopTexts | None = None) -> None:
        self.batch_size = batch_size
        self.stop_texts = stop_texts

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
        """See `GenerationEngine.generate`."""
        device = next(policy.parameters()).device
        sampler = partial(sample_tokens, temperature=temperature, top_p=top_p, min_p=min_p)
        num_rows, num_tokens = noise.shape
        written = _Written(num_rows, num_tokens, stop_ids, self.stop_texts, device)
        noise = noise.to(device)
        size = self.batch_size or len(prompts)
        # Else torch.compile would make a graph for each layer's cache, and give up before the training passes come.
        with torch.compiler.set_stance("force_eager"):
            for start in range(0, len(prompts), size):
                self._decode(policy, prompts[start : start + size], start, noise, sampler, written)
        return written.generation()

    def _decode(
        self,
        policy: nn.Module,
        prompts: Sequence[list[int]],
        first_row: int,
        noise: Tensor,
        sampler: Callable[[Tensor, Tensor], Draw],
        written: "_Written",
    ) -> None:
        head, backbone = output_head_of(policy), backbone_of(policy)
        ids, mask = pad_left(list(prompts), noise.device)
        rows = torch.arange(first_row, first_row + len(prompts), device=noise.device)
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        cache = Cache(layer_class_to_replicate=GrowingLayer)
        shortcuts = takes_shortcuts(policy)
        # On a GPU a mask could keep attention from a faster kernel.
        sees_all = noise.device.type == "cpu" and shortcuts and _sees_all(policy)
        for t in range(noise.shape[1]):
            # Of a prompt the last token's state alone is read.
            with mlps_on(policy, None, _ends(ids) if t == 0 and shortcuts else None):
                # Else transformers works out for each token again what the mask says already.
                shown = mask[:, None, None] if sees_all and t > 0 else mask.long()
                hidden = _last_hidden(backbone, ids, shown, positions, cache)
            draw = sampler(head(hidden), noise[rows, t])
            written.add(t, rows, draw)
            ended = written.ended[rows]
            num_ended = int(ended.sum())
            if num_ended == len(rows):
                break
            ids, positions = draw.tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            if num_ended * 4 >= len(rows):
                keep = torch.nonzero(~ended).squeeze(1)
                cache.batch_select_indices(keep)
                rows, ids, positions, mask = rows[keep], ids[keep], positions[keep], mask[keep]


class _Written:
    """What has been sampled so far, all rows, and which of them have ended by what."""

    def __init__(
        self,
        num_rows: int,
        num_tokens: int,
        stop_ids: tuple[int, ...],
        stop_texts: StopTexts | None,
        device: torch.device,
    ) -> None:
        self.stops = torch.tensor(stop_ids, device=device)
        self.stop_texts = stop_texts
        self.response_ids = torch.zeros(num_rows, num_tokens, dtype=torch.long, device=device)
        self.response_mask = torch.zeros(num_rows, num_tokens, dtype=torch.bool, device=device)
        self.logprobs = torch.zeros(num_rows, num_tokens, dtype=torch.float32, device=device)
        self.by_token = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.by_text = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self.support: list[list[np.ndarray]] = [[] for _ in range(num_rows)]
        self.has_support = False

    @property
    def ended(self) -> Tensor:
        """[B] bool."""
        return self.by_token | self.by_text

    def add(self, t: int, rows: Tensor, draw: Draw) -> None:
        """Token t of some rows; those that had ended stay as they are."""
        ended = self.ended[rows]
        self.response_ids[rows, t] = draw.tokens.masked_fill(ended, 0)
        self.response_mask[rows, t] = ~ended
        self.logprobs[rows, t] = draw.logprobs.masked_fill(ended, 0.0)
        if draw.support is not None:
            self._add_support(rows[~ended], draw.support[~ended])
        self.by_token[rows] |= torch.isin(draw.tokens, self.stops) & ~ended
        if self.stop_texts is not None:
            self.by_text[rows] |= self.stop_texts.completed(self.response_ids[rows, : t + 1])

    def generation(self) -> Generation:
        """Cut to the longest response."""
        require_numbers(self.logprobs)
        length = max(int(self.response_mask.any(dim=0).sum()), 1)
        return Generation(
            self.response_ids[:, :length],
            self.response_mask[:, :length],
            self.logprobs[:, :length],
            finish_reasons(self.by_token, self.by_text),
            self.support if self.has_support else None,
        )

    def _add_support(self, rows: Tensor, support: Tensor) -> None:
        self.has_support = True
        for row, ids in zip(rows.tolist(), ids_of(support), strict=True):
            self.support[row].append(ids)


def _ends(ids: Tensor) -> Tensor:
    """The last token of each row, in the flattened rows."""
    rows, columns = ids.shape
    return torch.arange(1, rows + 1, device=ids.device) * columns - 1


def _sees_all(policy: nn.Module) -> bool:
    """Whether each layer's attention is PyTorch's, which takes a mask [B, 1, 1, L] bool as it is, and looks at all tokens."""
    config = inner_model_of(policy).config
    kinds = set(getattr(config, "layer_types", None) or ())
    has_window = getattr(config, "sliding_window", None) is not None
    return config._attn_implementation == "sdpa" and not has_window and kinds <= {"full_attention"}


def _last_hidden(backbone: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    outputs = backbone(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return cast(Tensor, outputs.last_hidden_state[:, -1])
