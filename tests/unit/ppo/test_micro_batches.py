"""Micro-batches: by rows or by tokens, cut finer where memory runs out, with the same gradients."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from tiny_ppo import PROMPTS, TinyPPO, made_up_targets, section_of

from rlhf.errors import TrainingError
from rlhf.ppo.micro_batches import MicroBatches, lengths_of, padded_tokens

# prompt and response tokens: 12, 3, 9, 5 and 6 in all
LENGTHS = [(2, 10), (1, 2), (8, 1), (2, 3), (3, 3)]


def test_by_rows_the_longest_come_first():
    batches = MicroBatches(section_of(per_device_batch_size=2))
    assert batches.split(range(5), LENGTHS) == [[0, 2], [4, 3], [1]]
    assert batches.split([1, 3], LENGTHS) == [[3, 1]]


def test_by_tokens_padding_counts():
    """Rows 0 and 2 side by side need 2 x (2 + 10) = 24 tokens; 2 and 4 need 18; 4 and 3 need 2 x (3 + 3) = 12, with 1 they need 18.

    In 23 tokens three micro-batches are needed: 12 + 9 + 18 are less than 12 + 18 for 2 and 4 + 10 for 3 and 1."""
    assert padded_tokens([0, 2], LENGTHS) == 24
    by_tokens = {
        n: MicroBatches(section_of(per_device_tokens=n)).split(range(5), LENGTHS) for n in (24, 23, 17)
    }
    assert by_tokens[24] == [[0, 2], [4, 3, 1]]
    assert by_tokens[23] == [[0], [2], [4, 3, 1]]
    assert by_tokens[17] == [[0], [2], [4, 3], [1]]
    assert MicroBatches(section_of(per_device_tokens="auto")).split(range(5), LENGTHS) == [[0, 2, 4, 3, 1]]


def cuts(rows):
    """Every way to cut rows, longest first, into parts that follow one another."""
    for bars in itertools.product([False, True], repeat=len(rows) - 1):
        parts = [[rows[0]]]
        for row, bar in zip(rows[1:], bars, strict=True):
            parts = [*parts, [row]] if bar else [*parts[:-1], [*parts[-1], row]]
        yield parts


@pytest.mark.parametrize("seed", range(12))
def test_of_all_cuts_it_takes_one_of_the_fewest_parts_with_the_least_padding(seed):
    rng = random.Random(seed)
    lengths = [(rng.randint(1, 5), rng.randint(0, 30)) for _ in range(9)]
    max_tokens, max_rows = rng.choice([20, 40, 80]), rng.choice([2, 4, 9])
    order = sorted(range(9), key=lambda row: -sum(lengths[row]))

    def padded(parts):
        return len(parts), sum(len(part) * max(sum(lengths[row]) for row in part) for part in parts)

    def fits(part):
        tokens = len(part) * max(sum(lengths[row]) for row in part)
        return len(part) == 1 or (len(part) <= max_rows and tokens <= max_tokens)

    best = min(padded(parts) for parts in cuts(order) if all(map(fits, parts)))
    section = section_of(per_device_tokens=max_tokens)
    found = MicroBatches(section).split(range(9), lengths, max_rows=max_rows)
    assert padded(found) == best
    assert all(map(fits, found))
    assert sorted(itertools.chain(*found)) == list(range(9))


def test_no_rows_are_no_micro_batches():
    assert MicroBatches(section_of()).split([], LENGTHS) == []


def test_a_row_that_is_too_long_goes_alone():
    assert MicroBatches(section_of(per_device_tokens=4)).split([0, 1], LENGTHS) == [[0], [1]]


def small_device(ppo, num_tokens, monkeypatch):
    """Forward passes of more tokens than that run out of memory; the sizes of those that fitted."""
    fitted = []
    real = ppo.model.forward

    def forward(input_ids, attention_mask, *rest, **more):
        tokens = len(input_ids) * int(attention_mask.sum(dim=1).max())
        if tokens > num_tokens:
            raise torch.OutOfMemoryError(f"{tokens} tokens")
        fitted.append(tokens)
        return real(input_ids, attention_mask, *rest, **more)

    monkeypatch.setattr(ppo.model, "forward", forward)
    return fitted


@pytest.mark.parametrize("knob", [{"per_device_tokens": "auto"}, {"per_device_batch_size": 8}])
def test_where_memory_runs_out_the_update_is_cut_finer_and_its_weights_are_the_same(
    knob, monkeypatch, capsys
):
    whole, tight = (TinyPPO(section_of(learning_rate=1e-2, num_epochs=2, **knob)) for _ in range(2))
    rollout = whole.collect()
    whole.updater.update(rollout, *made_up_targets(rollout), 0)
    needed = padded_tokens(range(8), lengths_of(rollout))
    fitted = small_device(tight, needed // 2, monkeypatch)
    before = tight.weights()
    stats = tight.updater.update(rollout, *made_up_targets(rollout), 0)
    assert stats["policy/num_updates"] == 2
    assert max(fitted) <= needed // 2
    assert tight.updater.micro_batches.max_tokens == needed // 2
    assert capsys.readouterr().out.count("out of memory") == 1, "found once, and kept"
    for name, weight in whole.weights().items():
        moved = (weight - before[name]).norm()
        assert (tight.weights()[name] - weight).norm() <= 1e-4 * moved + 1e-7


def test_collecting_cuts_what_does_not_fit(monkeypatch):
    whole, tight = (TinyPPO(section_of(per_device_batch_size=8)) for _ in range(2))
    rollout = whole.collect()
    small_device(tight, padded_tokens(range(8), lengths_of(rollout)) // 3, monkeypatch)
    again = tight.collect()
    assert torch.equal(again.response_ids, rollout.response_ids)
    for name in ("logprobs", "ref_logprobs", "values", "scores"):
        assert torch.allclose(getattr(again, name), getattr(rollout, name), atol=1e-5)


def test_a_single_response_that_does_not_fit_is_an_error_with_remedies(monkeypatch):
    ppo = TinyPPO(section_of(per_device_tokens="auto"))
    rollout = ppo.collect()
    small_device(ppo, 1, monkeypatch)
    with pytest.raises(TrainingError, match="one response and its prompt") as caught:
        ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert "gradient_checkpointing" in str(caught.value)
    with pytest.raises(TrainingError, match="one response"):
        ppo.collect(prompts=PROMPTS[:2])


def test_where_passes_talk_to_other_ranks_running_out_is_the_devices_own_error(monkeypatch):
    monkeypatch.setattr("rlhf.ppo.passes.passes_talk", lambda accelerator: True)
    ppo = TinyPPO(section_of(per_device_batch_size=8))
    rollout = ppo.collect()
    small_device(ppo, 1, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        ppo.updater.update(rollout, *made_up_targets(rollout), 0)


def test_the_ranks_agree_on_the_least_that_fits(monkeypatch):
    printed = []
    ranks = SimpleNamespace(num_processes=2, print=lambda line, flush: printed.append(line))
    monkeypatch.setattr("rlhf.ppo.micro_batches.least_of_all", lambda mine: min(mine, 300))
    batches = MicroBatches(section_of(per_device_tokens="auto"))
    assert batches.shrink(None, ranks)
    assert batches.max_tokens == 300
    assert batches.shrink(402, ranks)
    assert batches.max_tokens == 201
    assert printed[-1] == "out of memory: micro-batches of at most 201 tokens from now on"
    again = MicroBatches(section_of(per_device_tokens="auto"))
    again.load_state_dict(batches.state_dict())
    assert again.split(range(5), LENGTHS) == batches.split(range(5), LENGTHS)
