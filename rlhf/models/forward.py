"""Forward passes that all models of PPO share, with float32 score heads.

Rows may be padded on either side: positions count real tokens, so padding changes nothing, for absolute (GPT-2)
and rotary models alike.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from transformers import masking_utils

from rlhf.models.lean import lean_operators
from rlhf.models.load import backbone_of, has_checkpointing, score_head_of, takes_shortcuts
from rlhf.models.mlps import mlps_on
from rlhf.models.transfer import to_device


def hidden_states(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    width: int | None = None,
    *,
    wanted: slice = slice(None),
    read: Tensor | None = None,
    num_read: int | None = None,
) -> Tensor:
    """Last hidden states [B, L, H] of `input_ids` [B, L] int64 under `attention_mask` [B, L] bool.

    A row's real tokens are one block with padding on either side. They are computed from column 0 on, where a causal
    model needs no mask: no token looks at what follows it, attention takes its fastest kernel, and columns in which no
    row has a token are not computed. States of padding are whatever they are.

    Args:
        model: a causal LM or a reward model.
        input_ids, attention_mask: the rows.
        width: real tokens of the longest row; None: the device is asked, and waited for.
        wanted: the W columns whose states are returned.
        read: [B, W] bool, the tokens among them whose states the caller looks at; the others' may be anything finite.
            None: all.
        num_read: how many these are, from one who knows; None: the device is asked, and waited for.

    Raises:
        ValueError: a row is longer than the width, or (where MLPs are left out) another number is read than said; looked
            for on a CPU alone.
    """
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    padding = attention_mask.int().argmax(dim=1, keepdim=True)
    lengths = attention_mask.sum(dim=1)
    if width is None or not input_ids.is_cuda:
        longest = int(lengths.max())
        if width is not None and width < longest:
            raise ValueError(f"width={width}, and a row has {longest} tokens")
        width = longest
    aligned = input_ids.gather(1, (columns[: max(1, width)] + padding) % len(columns))
    back = (columns[wanted] - padding).clamp(0, aligned.shape[1] - 1)
    real = last = None
    shortcuts = takes_shortcuts(model)
    if shortcuts:
        # On a GPU padding is computed: nobody has measured there whether leaving it out pays for its copies.
        if not input_ids.is_cuda:
            real = last = places_of(columns[: aligned.shape[1]] < lengths[:, None])
        if read is not None:
            first = torch.arange(len(back), device=back.device)[:, None] * aligned.shape[1]
            last = (first + back).flatten().index_select(0, places_of(read, num_read))
    # Scoring is to round as the update does, which under checkpointing takes no shortcut.
    leanly = lean_operators(model) if shortcuts and not has_checkpointing(model) else nullcontext()
    with _one_sequence_a_row(), mlps_on(model, real, last), leanly:
        outputs = backbone_of(model)(input_ids=aligned, use_cache=False)
    hidden = cast(Tensor, outputs.last_hidden_state)
    return hidden.gather(1, back[:, :, None].expand(-1, -1, hidden.shape[-1]))


def places_of(mask: Tensor, number: int | None = None) -> Tensor:
    """Where a mask is True, flattened, in their order: [number] int64.

    Args:
        mask: bool.
        number: how often it is, from one who knows; None: the device is asked, and waited for.

    Raises:
        ValueError: another number than the mask's; looked for on a CPU alone.
    """
    flat = mask.flatten()
    if number is None or not flat.is_cuda:
        places = flat.nonzero().squeeze(1)
        if number is not None and number != len(places):
            raise ValueError(f"{number} tokens are announced, and the mask keeps {len(places)}")
        return places
    return torch.sort(flat.byte(), descending=True, stable=True).indices[:number]


@contextmanager
def _one_sequence_a_row() -> Generator[None]:
    """transformers asks positions on the device whether a row packs several sequences, and waits for the answer."""
    name = "find_packed_sequence_indices"
    asks = getattr(masking_utils, name, None)
    if asks is None:
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)  # pyright: ignore[reportUnknownLambdaType]
    try:
        yield
    finally:
        setattr(masking_utils, name, asks)


def apply_score_head(model: nn.Module, hidden: Tensor) -> Tensor:
    """Scores [...] float32 of hidden states [..., H]; in the head's own precision under autocast too.

    That is float32, since bfloat16 keeps 3 digits, but where FSDP2 or DeepSpeed have lowered the weights themselves.
    """
    head = score_head_of(model)
    with torch.autocast(hidden.device.type, enabled=False):
        return head(hidden.to(cast(Tensor, head.weight).dtype)).squeeze(-1).float()


def sequence_scores(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, width: int | None = None
) -> Tensor:
    """The reward model's score [B] float32, read at each row's last real token, whatever the padding side."""
    rows, columns = (torch.arange(size, device=input_ids.device) for size in input_ids.shape)
    last = (attention_mask.long() * columns).argmax(dim=1)
    read = columns == last[:, None]
    hidden = hidden_states(model, input_ids, attention_mask, width, read=read, num_read=len(rows))
    return apply_score_head(model, hidden[rows, last])


@torch.no_grad()
def score_token_lists(model: nn.Module, sequences: Sequence[list[int]], *, batch_size: int) -> list[float]:
    """Scores of token sequences, in their order; sorted by length inside, so that little padding is computed."""
    was_training = model.training
    model.eval()
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    scores = [0.0] * len(sequences)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        found = scores_together(model, [sequences[index] for index in chosen]).tolist()
        for index, score in zip(chosen, found, strict=True):
            scores[index] = score
    model.train(was_training)
    return scores


@torch.no_grad()
def scores_together(model: nn.Module, sequences: list[list[int]]) -> Tensor:
    """Scores [B] float32 of token sequences, in one pass; on the model's device, which nobody waits for."""
    ids, mask = pad_right(sequences, next(model.parameters()).device)
    return sequence_scores(model, ids, mask, width=ids.shape[1])


def pad_right(sequences: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] int64 and mask [B, L] bool; the pad id is 0, since the mask alone says what is real."""
    length, lengths = _lengths(sequences, device)
    ids = torch.tensor([sequence + [0] * (length - len(sequence)) for sequence in sequences])
    return to_device(ids, device), torch.arange(length, device=device)[None] < lengths[:, None]


def pad_left(sequences: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] int64 and mask [B, L] bool, padded on the left."""
    length, lengths = _lengths(sequences, device)
    ids = torch.tensor([[0] * (length - len(sequence)) + sequence for sequence in sequences])
    return to_device(ids, device), torch.arange(length, device=device)[None] >= length - lengths[:, None]


def _lengths(sequences: list[list[int]], device: torch.device) -> tuple[int, Tensor]:
    """The longest, and all [B] int64."""
    lengths = [len(sequence) for sequence in sequences]
    return max(lengths), to_device(torch.tensor(lengths), device)
