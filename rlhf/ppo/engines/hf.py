"""The `hf` engine: transformers' own forward with a growing key-value cache; runs everywhere."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rlhf.models.load import backbone_of, output_head_of
from rlhf.ppo.engines.base import Generation


class HFEngine:
    """Decodes token by token; rows that have ended leave the batch once they are a quarter of it."""

    @torch.no_grad()
    def generate(
        self,
        policy: nn.Module,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        noise: Tensor,
        *,
        temperature: float,
        stop_ids: tuple[int, ...],
    ) -> Generation:
        """See `GenerationEngine.generate`."""
        num_rows, num_tokens = noise.shape
        device = prompt_ids.device
        response_ids = torch.zeros(num_rows, num_tokens, dtype=torch.long, device=device)
        response_mask = torch.zeros(num_rows, num_tokens, dtype=torch.bool, device=device)
        logprobs = torch.zeros(num_rows, num_tokens, dtype=torch.float32, device=device)
        stops = torch.tensor(stop_ids, device=device)
        head, backbone = output_head_of(policy), backbone_of(policy)
        cache, mask, rows = DynamicCache(), prompt_mask, torch.arange(num_rows, device=device)
        ids, positions = prompt_ids, (prompt_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        for t in range(num_tokens):
            hidden = _last_hidden(backbone, ids, mask, positions, cache)
            tokens, token_logprobs = sample_tokens(head(hidden), noise[rows, t], temperature)
            response_ids[rows, t] = tokens.masked_fill(ended, 0)
            response_mask[rows, t] = ~ended
            logprobs[rows, t] = token_logprobs.masked_fill(ended, 0.0)
            ended = ended | torch.isin(tokens, stops)
            num_ended = int(ended.sum())
            if num_ended == len(rows):
                break
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            if num_ended * 4 >= len(rows):
                keep = torch.nonzero(~ended).squeeze(1)
                cache.batch_select_indices(keep)
                rows, ids, positions, mask, ended = (
                    rows[keep],
                    ids[keep],
                    positions[keep],
                    mask[keep],
                    ended[keep],
                )
        length = max(int(response_mask.any(dim=0).sum()), 1)
        return Generation(response_ids[:, :length], response_mask[:, :length], logprobs[:, :length])


def sample_tokens(logits: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw by the inverse of the cumulative distribution, so that one number decides one token.

    Args:
        logits: [B, V], any float dtype; the maths is float32.
        noise: [B] float32 in [0, 1).
        temperature: softmax temperature; 0 takes the likeliest token.

    Returns:
        tokens [B] int64 and their log-probabilities [B] float32 (at temperature 1 where it is 0).
    """
    logits = logits.float()
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        logits = logits / temperature
        cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
        # Rounding leaves the last entry near 1, not at it: scaling keeps noise close to 1 inside the vocabulary.
        threshold = (noise[:, None] * cumulative[:, -1:]).contiguous()
        tokens = (
            torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
        )
    return tokens, logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1)


def _last_hidden(
    backbone: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
) -> Tensor:
    outputs = backbone(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return cast(Tensor, outputs.last_hidden_state[:, -1])
