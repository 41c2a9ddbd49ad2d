"""The cache of `hf` beside transformers' own, which it replaces: the same keys and values, through growth and selection."""

import torch
from transformers.cache_utils import DynamicLayer

from rlhf.ppo.engines.caches import GrowingLayer


def test_it_holds_what_concatenation_would_hold():
    torch.manual_seed(0)
    mine, theirs = GrowingLayer(), DynamicLayer()
    rows = 5
    for step, new in enumerate((70, 1, 63, 1, 1, 130, 1)):
        keys, values = torch.randn(2, rows, 2, new, 4)
        for got, wanted in zip(mine.update(keys, values), theirs.update(keys, values), strict=True):
            assert torch.equal(got, wanted)
        assert mine.get_seq_length() == theirs.get_seq_length()
        assert mine.get_mask_sizes(1) == theirs.get_mask_sizes(1)
        if step in (1, 4):
            keep = torch.tensor([0, 2, 3][: rows - 2])
            mine.batch_select_indices(keep)
            theirs.batch_select_indices(keep)
            rows = len(keep)


def test_a_token_is_written_in_place():
    layer = GrowingLayer()
    keys, _ = layer.update(*torch.randn(2, 3, 2, 10, 4))
    again, _ = layer.update(*torch.randn(2, 3, 2, 1, 4))
    assert again.data_ptr() == keys.data_ptr()


def test_a_layer_that_was_never_filled_has_nothing_to_select():
    layer = GrowingLayer()
    layer.batch_select_indices(torch.tensor([0]))
    assert layer.get_seq_length() == 0
