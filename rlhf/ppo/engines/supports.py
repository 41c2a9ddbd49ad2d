"""Which tokens the sampled ones were drawn from: a bit for each of the vocabulary until a call is over, then ids."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_MOST_AT_ONCE = 2**27
"""Bits unpacked together: 128 MiB."""


def packed(support: Tensor) -> Tensor:
    """[n, V] bool as [n, ceil(V / 8)] uint8, the lowest bit first."""
    bits = F.pad(support.to(torch.uint8), (0, -support.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (bits << _places(support.device)).sum(dim=-1, dtype=torch.uint8)


def unpacked(bits: Tensor, num_vocabulary: int) -> Tensor:
    """[n, ceil(V / 8)] uint8 as [n, V] bool."""
    return ((bits[..., None] >> _places(bits.device)) & 1).bool().flatten(-2)[..., :num_vocabulary]


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)


def ids_of(support: Tensor) -> list[np.ndarray]:
    """The True places of each row of [n, V] bool: int32, ascending."""
    ids = support.nonzero()[:, 1].int().cpu().numpy()
    ends = support.sum(dim=1).cumsum(dim=0).tolist()
    return np.split(ids, ends[:-1]) if ends else []


def ids_of_tokens(bits: Tensor, lengths: list[int], num_vocabulary: int) -> list[list[np.ndarray]]:
    """As `Generation.support`, of [R, T, ceil(V / 8)] uint8 of which a row's first tokens count."""
    size = max(1, _MOST_AT_ONCE // num_vocabulary)
    rows: list[list[np.ndarray]] = []
    for row, length in zip(bits, lengths, strict=True):
        parts = row[:length].split(size)
        rows.append([ids for part in parts for ids in ids_of(unpacked(part, num_vocabulary))])
    return rows
