"""An episode is one prompt with one sampled response; a step's episodes are gathered so that every rank holds all.

They are small (a few numbers a token), and with all of them on every rank the maths after sampling (shaping, KL,
advantages, whitening, statistics) is the same everywhere, whatever the layout.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from rlhf.models.transfer import to_device

FinishReason = Literal["eos", "length", "stop"]


@dataclass(frozen=True)
class Episode:
    """One prompt and response with everything that sampling and scoring said about them.

    Attributes:
        index: place in the step's global batch.
        prompt_id: the prompt's row in its split.
        sample_index: which of the prompt's responses in this step.
        prompt_ids, response_ids: token ids.
        logprobs, ref_logprobs, values: [T] float32 of the training forward pass, before any update.
        engine_logprobs: [T] float32, the engine's own.
        score: the sources' scores, combined.
        scores: each source's own score.
        finish_reason: `eos` (a stop token), `stop` (a stop text) or `length` (cut).
        bootstrap_value: the critic's value after the last token of a response that was cut, else 0.
        support: [T] arrays of int32 token ids: what each token was sampled from, where top-p or min-p cut the vocabulary.
        importance_weights: [T] float32, see `importance_weights`; None where the engine computes as the trainer does.
        metadata: of the prompt's record.
    """

    index: int
    prompt_id: int
    sample_index: int
    prompt_ids: list[int]
    response_ids: list[int]
    logprobs: np.ndarray
    ref_logprobs: np.ndarray
    values: np.ndarray
    engine_logprobs: np.ndarray
    score: float
    finish_reason: FinishReason
    scores: dict[str, float] = field(default_factory=dict[str, float])
    bootstrap_value: float = 0.0
    support: list[np.ndarray] | None = None
    importance_weights: np.ndarray | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def ended(self) -> bool:
        """Whether the response came to an end of its own."""
        return self.finish_reason != "length"


@dataclass(frozen=True)
class Rollout:
    """A step's episodes as tensors on the CPU: B rows, P prompt columns (left-padded), T response columns.

    Attributes:
        prompt_ids: [B, P] int64.
        prompt_mask: [B, P] bool.
        response_ids: [B, T] int64.
        response_mask: [B, T] bool, True on sampled tokens, the stop token included.
        logprobs, ref_logprobs, values: [B, T] float32, 0 outside the mask.
        scores: [B] float32.
        ended: [B] bool.
        bootstrap_values: [B] float32, the value after the last token of a response that was cut, else 0.
        episodes: the rows they came from.
        importance_weights: [B, T] float32, 0 outside the mask; None where the engine computes as the trainer does.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    response_mask: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    scores: Tensor
    ended: Tensor
    bootstrap_values: Tensor
    episodes: list[Episode] = field(repr=False)
    importance_weights: Tensor | None = None

    @property
    def num_episodes(self) -> int:
        """Rows."""
        return len(self.episodes)

    def micro_batch(self, rows: list[int], device: torch.device, **columns: Tensor) -> dict[str, Tensor]:
        """Some rows on a device, cut to their own longest prompt and response; of further columns [B, T] too."""
        index = torch.tensor(rows)
        prompt_columns = int(self.prompt_mask[index].sum(dim=1).max())
        response_columns = int(self.response_mask[index].sum(dim=1).max())
        cut = slice(None, response_columns)
        response_mask = self.response_mask[index][:, cut]
        prompt_mask = self.prompt_mask[index][:, -prompt_columns:]
        prompt_ids = self.prompt_ids[index][:, -prompt_columns:]
        batch = {
            "input_ids": torch.cat([prompt_ids, self.response_ids[index][:, cut]], dim=1),
            "attention_mask": torch.cat([prompt_mask, response_mask], dim=1),
            "response_mask": response_mask,
            "logprobs": self.logprobs[index][:, cut],
            "ref_logprobs": self.ref_logprobs[index][:, cut],
            "values": self.values[index][:, cut],
            **{name: column[index][:, cut] for name, column in columns.items()},
        }
        if self.importance_weights is not None:
            batch["importance_weights"] = self.importance_weights[index][:, cut]
        supports = [self.episodes[row].support for row in rows]
        if any(support is not None for support in supports):
            batch["support"] = pad_supports(supports, response_columns)
        return {name: to_device(tensor, device) for name, tensor in batch.items()}


def gather_episodes(local: list[Episode]) -> list[Episode]:
    """All ranks' episodes in the order of the global batch."""
    gathered: list[Any] = gather_object(local)
    return sorted(gathered, key=lambda episode: episode.index)


def collate(episodes: list[Episode]) -> Rollout:
    """Pad episodes into a `Rollout`.

    Raises:
        ValueError: only some episodes have importance weights.
    """
    num_prompt = max(len(episode.prompt_ids) for episode in episodes)
    num_response = max(len(episode.response_ids) for episode in episodes)

    def left(row: list[int]) -> list[int]:
        return [0] * (num_prompt - len(row)) + row

    def right(rows: list[np.ndarray], dtype: torch.dtype) -> Tensor:
        padded = np.zeros(
            (len(rows), num_response), dtype=np.float64 if dtype.is_floating_point else np.int64
        )
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return torch.from_numpy(padded).to(dtype)

    weights = [each.importance_weights for each in episodes if each.importance_weights is not None]
    if weights and len(weights) < len(episodes):
        raise ValueError("some responses have importance weights and some have none")
    lengths = torch.tensor([len(episode.response_ids) for episode in episodes])
    prompt_lengths = torch.tensor([len(episode.prompt_ids) for episode in episodes])
    return Rollout(
        prompt_ids=torch.tensor([left(episode.prompt_ids) for episode in episodes]),
        prompt_mask=torch.arange(num_prompt)[None] >= num_prompt - prompt_lengths[:, None],
        response_ids=right([np.array(episode.response_ids) for episode in episodes], torch.long),
        response_mask=torch.arange(num_response)[None] < lengths[:, None],
        logprobs=right([episode.logprobs for episode in episodes], torch.float32),
        ref_logprobs=right([episode.ref_logprobs for episode in episodes], torch.float32),
        values=right([episode.values for episode in episodes], torch.float32),
        scores=torch.tensor([episode.score for episode in episodes], dtype=torch.float32),
        ended=torch.tensor([episode.ended for episode in episodes]),
        bootstrap_values=torch.tensor([episode.bootstrap_value for episode in episodes], dtype=torch.float32),
        episodes=episodes,
        importance_weights=right(weights, torch.float32) if weights else None,
    )


def pad_supports(supports: list[list[np.ndarray] | None], num_columns: int) -> Tensor:
    """Token ids that each response token was sampled from: [B, T, K] int64, -1 where there are fewer.

    Raises:
        ValueError: only some rows have a support.
    """
    rows = [support for support in supports if support is not None]
    if len(rows) != len(supports):
        raise ValueError("some responses have a support and some have none")
    widest = max((len(ids) for row in rows for ids in row), default=1)
    padded = np.full((len(rows), num_columns, widest), -1, dtype=np.int64)
    for place, row in enumerate(rows):
        for column, ids in enumerate(row):
            padded[place, column, : len(ids)] = ids
    return torch.from_numpy(padded)
