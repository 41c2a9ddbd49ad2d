"""PPO-ptx: its loss against a float64 sum over single rows, which rows it takes, and its split over processes."""

import copy
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from tiny_ppo import section_of, tiny_lm, tiny_rm

from rlhf.errors import DataError, TrainingError
from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.ptx import PTX, SFTRow, sft_loss

# Holes in the labels (several turns), a label at the first token, which nothing predicts, a row without any.
ROWS = [
    SFTRow([3, 7, 1, 9, 22], [False, True, False, True, True]),
    SFTRow([5, 22], [True, True], weight=2.5),
    SFTRow([8, 8, 4, 6, 2, 11, 22], [False, False, True, True, False, False, True]),
    SFTRow([12, 1, 22], [False, False, False]),
    SFTRow([2, 16, 9], [True, True, True], weight=0.5),
]
NUM_LABELS = 3 + 1 + 3 + 0 + 2


def reference_loss(policy, rows, num_tokens):
    """Each row on its own, unpadded, a softmax over the whole vocabulary in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        logits = policy(input_ids=torch.tensor([row.input_ids])).logits[0]
        for place in range(1, len(row.input_ids)):
            if row.labels_mask[place]:
                total = (
                    total - row.weight * torch.log_softmax(logits[place - 1], dim=-1)[row.input_ids[place]]
                )
    return total / num_tokens


class Process:
    """One of several processes, as far as PTX sees them; gradients stay its own."""

    device = torch.device("cpu")

    def __init__(self, index=0, count=1):
        self.process_index, self.num_processes = index, count
        self.passes = 0

    def autocast(self):
        return nullcontext()

    def unwrap_model(self, model):
        return model

    def print(self, *words, **settings):
        pass

    def backward(self, loss):
        self.passes += 1
        loss.backward()


def gradients(policy):
    found = {name: value.grad for name, value in policy.named_parameters()}
    policy.zero_grad(set_to_none=True)
    return found


def test_the_loss_is_the_cross_entropy_of_the_labels():
    policy = tiny_lm("gpt2")
    double = copy.deepcopy(policy).double()
    loss = sft_loss(policy, ROWS, NUM_LABELS, torch.device("cpu"))
    expected = reference_loss(double, ROWS, NUM_LABELS)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    loss.backward()
    expected.backward()
    for name, value in double.named_parameters():
        assert torch.allclose(dict(policy.named_parameters())[name].grad.double(), value.grad, atol=1e-6), (
            name
        )


def test_padding_and_unlabelled_tokens_past_the_last_label_do_not_count():
    policy = tiny_lm("llama")
    rows = [
        SFTRow([3, 7, 1], [False, True, True]),
        SFTRow([3, 7, 1, 9, 9], [False, True, True, False, False]),
    ]
    losses = [sft_loss(policy, part, 2, torch.device("cpu")).item() for part in (rows[:1], rows[1:], rows)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[2] == pytest.approx(2 * losses[0], abs=1e-6)


@pytest.mark.parametrize(("num_processes", "per_device"), [(1, 8), (1, 2), (2, 8), (2, 1), (4, 2), (8, 8)])
def test_line_22_the_gradient_is_the_same_for_any_processes_and_micro_batches(
    num_processes, per_device, monkeypatch
):
    monkeypatch.setattr("rlhf.ppo.micro_batches.least_of_all", lambda number: number)
    section = section_of(ptx_coef=0.4, ptx_batch_size=5, per_device_batch_size=per_device)
    policy = tiny_lm("gpt2")
    double = copy.deepcopy(policy).double()
    expected = reference_loss(double, ROWS, NUM_LABELS)
    (0.4 * expected).backward()
    model = ActorCritic(policy, tiny_rm("gpt2"), temperature=0.7)
    total, found = 0.0, []
    for rank in range(num_processes):
        process = Process(rank, num_processes)
        ptx = PTX(ROWS, section, accelerator=process, seed=1)
        total += float(ptx.backward(model, 0, 0))
        found.append(gradients(policy))
        assert process.passes == -(-len(range(rank, 5, num_processes)) // per_device)
    assert total == pytest.approx(expected.item(), abs=1e-6)
    for name, value in double.named_parameters():
        grads = [each[name].double() for each in found if each[name] is not None]
        assert torch.allclose(sum(grads), value.grad, atol=1e-6), name


def small_device(monkeypatch, fits):
    """A pass runs out of memory where `fits`, given its number and its tokens, padding counted, says so; all their tokens."""
    seen = []

    def loss(policy, rows, *rest):
        seen.append(len(rows) * max(len(row.input_ids) for row in rows))
        if not fits(len(seen), seen[-1]):
            raise torch.OutOfMemoryError(f"{seen[-1]} tokens")
        return sft_loss(policy, rows, *rest)

    monkeypatch.setattr("rlhf.ppo.ptx.sft_loss", loss)
    return seen


def passed(section, accelerator):
    """PTX after one pass, its loss, and the gradients."""
    model = ActorCritic(tiny_lm("gpt2"), tiny_rm("gpt2"), temperature=0.7)
    ptx = PTX(ROWS, section, accelerator=accelerator, seed=1)
    loss = float(ptx.backward(model, 0, 0))
    return ptx, loss, [each.grad.clone() for each in model.policy.parameters()]


def alike(one, other):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("rows", "fits", "expected", "bounds"),
    [
        # Of 7, 5, 3, 3 and 2 tokens: 5 x 7 do not fit; of at most 17, 2 x 7 do not; of at most 7 all do.
        (8, lambda number, tokens: tokens <= 8, [35, 14, 7, 5, 6, 2], [17, 7]),
        # 2 x 7 fit and leave gradients, 2 x 3 do not: all is dropped, and of at most 3 each is alone.
        (2, lambda number, tokens: number != 2, [14, 6, 7, 5, 3, 3, 2], [3]),
    ],
)
def test_where_memory_runs_out_rows_are_cut_finer_and_the_gradient_is_the_same(
    rows, fits, expected, bounds, monkeypatch, capsys
):
    section = section_of(ptx_coef=0.4, ptx_batch_size=5, per_device_batch_size=rows)
    _, loss, whole = passed(section, Accelerator(cpu=True))
    seen = small_device(monkeypatch, fits)
    ptx, loss_here, cut = passed(section, Accelerator(cpu=True))
    assert seen == expected
    lines = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert lines == [
        f"out of memory: micro-batches of at most {bound} tokens from now on" for bound in bounds
    ]
    assert loss_here == pytest.approx(loss, abs=1e-6)
    assert alike(cut, whole)
    again = PTX(ROWS, section, accelerator=Accelerator(cpu=True), seed=1)
    again.load_state_dict(ptx.state_dict())
    assert again.micro_batches.max_tokens == bounds[-1]


def test_a_rank_drops_what_fitted_where_another_ran_out(monkeypatch):
    section = section_of(ptx_coef=0.4, ptx_batch_size=5, per_device_batch_size=8)
    found = []
    for answers in ([2**62], [3, 2**62]):
        agreed = iter(answers)
        monkeypatch.setattr(
            "rlhf.ppo.micro_batches.least_of_all", lambda number, a=agreed: min(number, next(a))
        )
        process = Process(0, 2)
        found.append(passed(section, process)[2])
        assert next(agreed, None) is None
    assert process.passes == 1 + 3, "its three rows at once, then one by one"
    assert alike(*found)


def test_a_single_row_that_does_not_fit_is_an_error_with_remedies(monkeypatch):
    small_device(monkeypatch, lambda number, tokens: tokens <= 4)
    section = section_of(ptx_coef=0.4, ptx_batch_size=5, per_device_batch_size=8)
    model = ActorCritic(tiny_lm("gpt2"), tiny_rm("gpt2"), temperature=0.7)
    ptx = PTX(ROWS, section, accelerator=Accelerator(cpu=True), seed=1)
    with pytest.raises(TrainingError, match=r"one SFT row of PPO-ptx \(7 tokens\)") as caught:
        ptx.backward(model, 0, 0)
    assert "sft.max_length" in str(caught.value)


def test_rows_are_a_function_of_seed_step_and_update():
    rows = [SFTRow([1, 2], [False, True])] * 50

    def chosen(seed, step, update, process=None):
        section = section_of(ptx_coef=1.0, ptx_batch_size=10)
        return PTX(rows, section, accelerator=process or Process(), seed=seed).chosen(step, update)

    first = chosen(1, 2, 3)
    assert len(set(first)) == 10
    assert set(first) <= set(range(50))
    assert chosen(1, 2, 3, Process(1, 2)) == first
    others = [chosen(1, 2, 4), chosen(1, 3, 3), chosen(2, 2, 3)]
    assert all(other != first for other in others)


def test_a_batch_larger_than_the_split_takes_every_row_before_any_again():
    ptx = PTX(ROWS, section_of(ptx_coef=1.0, ptx_batch_size=12), accelerator=Process(), seed=0)
    chosen = ptx.chosen(0, 0)
    assert sorted(chosen[:5]) == sorted(chosen[5:10]) == [0, 1, 2, 3, 4]
    assert len(chosen) == 12
    assert chosen[10] != chosen[11]


@pytest.mark.parametrize("rows", [[], [ROWS[3]], [SFTRow([4, 4], [True, False])]])
def test_a_split_without_a_label_is_refused(rows):
    with pytest.raises(DataError, match="label"):
        PTX(rows, section_of(ptx_coef=1.0), accelerator=Process(), seed=0)
