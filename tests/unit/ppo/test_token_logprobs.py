import math

import ppo_reference as reference
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlhf.ppo.losses import token_logprobs

B, T, H, V = 4, 9, 6, 97
LENGTHS = torch.tensor([9, 1, 6, 4])
MASK = torch.arange(T) < LENGTHS.unsqueeze(1)


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, T, H, generator=generator, requires_grad=True)
    weight = torch.randn(V, H, generator=generator, requires_grad=True)
    targets = torch.randint(V, (B, T), generator=generator)
    return hidden, weight, targets


def full(hidden, weight, targets, temperature, bias=0.0):
    """The whole [B, T, V] in float64, as a textbook would."""
    logp = torch.log_softmax((hidden.double() @ weight.double().T + bias) / temperature, dim=-1)
    entropy = torch.where(MASK, -(logp.exp() * logp).sum(-1), 0.0)
    return torch.where(MASK, logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1), 0.0), entropy


class Recorder(TorchDispatchMode):
    """Sees every tensor that any operation makes, forward and backward."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.largest = 0
        self.peak = 0
        self.storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
                if (
                    tensor.shape[-1:] == (self.width,) and tensor.shape[0] != H
                ):  # [H, V] is the transposed weight
                    storage = tensor.untyped_storage()
                    self.storages[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes() // 4)
        self.peak = max(self.peak, self.alive())
        return out

    def alive(self):
        """Numbers held by living storages with one entry a vocabulary item."""
        return sum(size for storage, size in self.storages.values() if not storage.expired())


def test_numbers_worked_by_hand():
    hidden, weight = torch.ones(1, 2, 1), torch.tensor([[0.0], [math.log(3)]])
    targets, mask = torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature=1.0, mask=mask, chunk_tokens=1)
    # probabilities 1/4 and 3/4; entropy (1/4) ln 4 + (3/4) ln(4/3) = 0.562335
    torch.testing.assert_close(logprobs, torch.tensor([[0.25, 0.75]]).log())
    torch.testing.assert_close(entropy, torch.full((1, 2), 0.562335))
    logprobs, _ = token_logprobs(hidden, weight, targets, temperature=2.0, mask=mask, chunk_tokens=1)
    # the square roots of 1 and 3, normalised: 1 / 2.7320508 and 1.7320508 / 2.7320508
    torch.testing.assert_close(logprobs, torch.tensor([[0.3660254, 0.6339746]]).log())


def test_each_token_agrees_with_the_reference():
    hidden, weight, targets = inputs()
    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature=0.7, mask=MASK, chunk_tokens=4)
    rows = weight.detach().double().numpy()
    for b, t in MASK.nonzero().tolist():
        state = hidden[b, t].detach().double().numpy()
        expected = reference.token_logprob(state, rows, int(targets[b, t]), 0.7)
        assert (logprobs[b, t].item(), entropy[b, t].item()) == pytest.approx(expected, abs=1e-4)


def test_a_count_that_is_not_the_masks_is_refused():
    hidden, weight, targets = inputs()
    given = {"temperature": 0.7, "mask": MASK, "chunk_tokens": 5}
    right = int(MASK.sum())
    known, asked = (token_logprobs(hidden, weight, targets, **given, num_kept=each) for each in (right, None))
    assert torch.equal(known[0], asked[0])
    for wrong in (right - 1, right + 1):
        with pytest.raises(ValueError, match=f"{wrong} tokens are announced, and the mask keeps {right}"):
            token_logprobs(hidden, weight, targets, **given, num_kept=wrong)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 20, 1000])
def test_values_and_gradients_equal_those_of_the_full_softmax(chunk_tokens):
    hidden, weight, targets = inputs()
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(B, T, generator=generator), torch.randn(B, T, generator=generator)
    outputs = token_logprobs(hidden, weight, targets, temperature=0.7, mask=MASK, chunk_tokens=chunk_tokens)
    expected = full(hidden, weight, targets, 0.7)
    for got, want in zip(outputs, expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=1e-5)
    gradients = torch.autograd.grad((a * outputs[0] + b * outputs[1]).sum(), (hidden, weight))
    wanted = torch.autograd.grad((a * expected[0] + b * expected[1]).sum(), (hidden, weight))
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_a_module_as_head_gets_gradients_for_weight_and_bias():
    hidden, weight, targets = inputs()
    head = torch.nn.Linear(H, V)
    torch.nn.init.normal_(head.bias)
    with torch.no_grad():
        head.weight.copy_(weight)
    logprobs, _ = token_logprobs(hidden, head, targets, temperature=1.3, mask=MASK, chunk_tokens=6)
    want = full(hidden, head.weight, targets, 1.3, head.bias.double())[0]
    torch.testing.assert_close(logprobs.double(), want, atol=1e-4, rtol=1e-5)
    gradients = torch.autograd.grad(logprobs.square().sum(), (head.weight, head.bias))
    wanted = torch.autograd.grad(want.square().sum(), (head.weight, head.bias))
    for got, expected in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


def test_logits_of_the_whole_batch_never_exist():
    hidden, weight, targets = inputs()
    chunk = 2
    with Recorder(V) as recorder:
        logprobs, entropy = token_logprobs(
            hidden, weight, targets, temperature=0.7, mask=MASK, chunk_tokens=chunk
        )
        held = recorder.alive()
        (logprobs.sum() + entropy.sum()).backward()
    assert recorder.largest == V * H  # the head's gradient; 20 kept tokens x V would be 1940, B x T x V 3492
    assert held == 0  # nothing is kept from forward to backward
    assert 2 * chunk * V <= recorder.peak <= 8 * chunk * V
    with Recorder(V) as recorder:
        logprobs, entropy = token_logprobs(
            hidden, weight, targets, temperature=0.7, mask=MASK, chunk_tokens=20
        )
    assert recorder.largest == 20 * V
    assert recorder.alive() > 0


def test_one_chunk_is_not_computed_twice_and_masked_tokens_not_at_all():
    hidden, weight, targets = inputs()
    seen = []

    def head(states):
        seen.append(len(states))
        return states @ weight.T

    def run(chunk_tokens):
        seen.clear()
        token_logprobs(hidden, head, targets, temperature=1.0, mask=MASK, chunk_tokens=chunk_tokens)[
            0
        ].sum().backward()
        return list(seen)

    assert run(20) == [20]
    assert sorted(run(8)) == [4, 4, 8, 8, 8, 8]
    with torch.no_grad():
        seen.clear()
        token_logprobs(hidden, head, targets, temperature=1.0, mask=MASK, chunk_tokens=8)
    assert seen == [8, 8, 4]


def test_what_lies_outside_the_mask_is_never_read():
    hidden, weight, targets = inputs()
    clean = token_logprobs(hidden, weight, targets, temperature=1.0, mask=MASK, chunk_tokens=7)
    clean_gradients = torch.autograd.grad(clean[0].sum() + clean[1].sum(), (hidden, weight))
    dirty_hidden = torch.where(MASK.unsqueeze(-1), hidden.detach(), float("nan")).requires_grad_()
    dirty_targets = torch.where(MASK, targets, -100)
    dirty = token_logprobs(dirty_hidden, weight, dirty_targets, temperature=1.0, mask=MASK, chunk_tokens=7)
    gradients = torch.autograd.grad(dirty[0].sum() + dirty[1].sum(), (dirty_hidden, weight))
    for got, want in zip((*dirty, *gradients), (*clean, *clean_gradients), strict=True):
        assert torch.equal(got, want)
    assert not dirty[0][~MASK].any()
    assert not dirty[1][~MASK].any()
    assert not gradients[0][~MASK].any()


def test_a_batch_without_tokens_still_reaches_every_parameter():
    hidden, weight, targets = inputs()
    nothing = torch.zeros(B, T, dtype=torch.bool)
    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature=1.0, mask=nothing, chunk_tokens=3)
    (logprobs.sum() + entropy.sum()).backward()
    assert not logprobs.any()
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_half_precision_logits_are_normalised_in_float32():
    hidden, weight, targets = inputs()
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    logprobs, _ = token_logprobs(hidden, weight, targets, temperature=0.7, mask=MASK, chunk_tokens=5)
    logits = (hidden @ weight.T).double() / 0.7
    want = torch.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs[MASK].double(), want[MASK], atol=1e-5, rtol=1e-5)


def test_under_autocast_the_chunks_add_up_their_gradients_in_float32():
    generator = torch.Generator().manual_seed(2)
    hidden, head = torch.randn(8, 64, 16, generator=generator), torch.nn.Linear(16, 50, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(50, 16, generator=generator))
    targets = torch.randint(50, (8, 64), generator=generator)
    mask = torch.ones(8, 64, dtype=torch.bool)

    def gradient(chunk_tokens, autocast):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logprobs, _ = token_logprobs(
                hidden, head, targets, temperature=1.0, mask=mask, chunk_tokens=chunk_tokens
            )
        return torch.autograd.grad(logprobs.sum(), head.weight)[0]

    exact = gradient(512, False)
    errors = [float((gradient(size, True) - exact).norm() / exact.norm()) for size in (512, 1)]
    assert min(errors) > 1e-5  # bfloat16 is at work in both
    assert errors[0] < 0.01
    assert errors[1] < 1.5 * errors[0]  # a sum of 512 terms in bfloat16 is ten times as far off


def test_flat_tokens_are_taken_in_any_pattern_and_holes_in_rows_are_refused():
    hidden, weight, targets = inputs()
    rows, _ = token_logprobs(hidden, weight, targets, temperature=1.0, mask=MASK, chunk_tokens=5)
    flat, _ = token_logprobs(
        hidden.flatten(0, 1), weight, targets.flatten(), temperature=1.0, mask=MASK.flatten(), chunk_tokens=5
    )
    assert torch.equal(flat, rows.flatten())
    with pytest.raises(ValueError, match="holes"):
        token_logprobs(hidden, weight, targets, temperature=1.0, mask=MASK.flip(1), chunk_tokens=5)
    for wrong in ({"temperature": 0.0}, {"chunk_tokens": 0}):
        with pytest.raises(ValueError, match="must be"):
            token_logprobs(
                hidden, weight, targets, mask=MASK, **{"temperature": 1.0, "chunk_tokens": 5, **wrong}
            )
    with pytest.raises(ValueError, match="hidden"):
        token_logprobs(hidden[:, :-1], weight, targets, temperature=1.0, mask=MASK, chunk_tokens=5)
