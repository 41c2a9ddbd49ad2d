import math

import numpy as np
import ppo_reference as reference
import pytest
import torch

from rlhf.ppo.losses import policy_loss, token_logprobs, value_loss

LENGTHS = [5, 1, 7, 3]
MASK = torch.arange(7) < torch.tensor(LENGTHS).unsqueeze(1)
GARBAGE = [float("nan"), float("inf"), float("-inf"), 1e30]
FULL = torch.ones(1, 4, dtype=torch.bool)


def batch(seed, scale=1.0):
    return torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)) * scale


def numbers(stats):
    return {name: float(value) for name, value in stats.items()}


def test_policy_loss_on_numbers_worked_by_hand():
    logprobs = torch.tensor([[1.5, 0.5, 1.5, 0.5]]).log().requires_grad_()
    loss, stats = policy_loss(
        logprobs, torch.zeros(1, 4), torch.tensor([[1.0, 1.0, -2.0, -2.0]]), FULL, cliprange=0.2
    )
    loss.backward()
    # max(-1.5, -1.2) = -1.2, max(-0.5, -0.8) = -0.5, max(3, 2.4) = 3, max(1, 1.6) = 1.6; their sum 2.9
    assert loss.item() == pytest.approx(2.9 / 4, abs=1e-6)
    # where the clipped branch won the gradient is 0, elsewhere -A x ratio
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, -0.5, 3.0, 0.0]]) / 4)
    ln15, ln05 = math.log(1.5), math.log(0.5)
    assert numbers(stats) == pytest.approx(
        {
            "clipfrac": 0.5,
            "approxkl": 0.5 * (2 * ln15**2 + 2 * ln05**2) / 4,
            "ratio": 1.0,
            "abs_log_ratio": (2 * ln15 - 2 * ln05) / 4,
            "ratio_max": 1.5,
        },
        abs=1e-6,
    )


def test_the_first_minibatch_has_ratio_one_and_the_gradient_of_the_advantage():
    logprobs = batch(0).requires_grad_()
    loss, stats = policy_loss(logprobs, logprobs.detach(), batch(1), MASK, cliprange=0.2)
    loss.backward()
    expected = {"clipfrac": 0.0, "approxkl": 0.0, "ratio": 1.0, "abs_log_ratio": 0.0, "ratio_max": 1.0}
    assert numbers(stats) == expected
    torch.testing.assert_close(logprobs.grad, torch.where(MASK, -batch(1) / 16, 0.0))


def test_line_23_dual_clip_bounds_what_a_negative_advantage_can_cost():
    logprobs = torch.tensor([[5.0, 5.0, 2.0, 0.5]]).log().requires_grad_()
    advantages = torch.tensor([[-2.0, 1.0, -2.0, -2.0]])
    loss, _ = policy_loss(logprobs, torch.zeros(1, 4), advantages, FULL, cliprange=0.2, dual_clip=3.0)
    loss.backward()
    # 10 is cut to 3 x 2 = 6; a positive advantage is left at -1.2; 4 is below 6; 1.6 was clipped
    assert loss.item() == pytest.approx((6 - 1.2 + 4 + 1.6) / 4, abs=1e-6)
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, 0.0, 4.0, 0.0]]) / 4)
    plain, _ = policy_loss(logprobs, torch.zeros(1, 4), advantages, FULL, cliprange=0.2)
    assert plain.item() == pytest.approx((10 - 1.2 + 4 + 1.6) / 4, abs=1e-6)
    with pytest.raises(ValueError, match="dual_clip"):
        policy_loss(logprobs, torch.zeros(1, 4), advantages, FULL, cliprange=0.2, dual_clip=1.0)


def test_weights_multiply_each_tokens_loss_and_leave_the_divisor():
    ones = torch.ones(1, 4)
    weights = torch.tensor([[2.0, 0.5, 0.0, 1.0]])
    loss, _ = policy_loss(
        ones, ones, torch.tensor([[1.0, 2.0, 3.0, -4.0]]), FULL, cliprange=0.2, weights=weights
    )
    assert loss.item() == (-2.0 - 1.0 + 0.0 + 4.0) / 4


def test_line_21_value_loss_on_numbers_worked_by_hand():
    values = torch.tensor([[1.0, 1.0, 0.6, 9.0]], requires_grad=True)
    old_values, returns = torch.tensor([[0.5, 0.5, 0.5, 9.0]]), torch.tensor([[2.0, 0.0, 0.0, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    loss, stats = value_loss(values, old_values, returns, mask, cliprange_value=0.2)
    loss.backward()
    # max(1, 1.3^2 = 1.69), max(1, 0.7^2 = 0.49), max(0.36, 0.36)
    assert loss.item() == pytest.approx(0.5 * (1.69 + 1 + 0.36) / 3, abs=1e-6)
    torch.testing.assert_close(values.grad, torch.tensor([[0.0, 1.0, 0.6, 0.0]]) / 3)
    expected = {"clipfrac": 1 / 3, "error": 2.36 / 3, "mean": 2.6 / 3}
    assert numbers(stats) == pytest.approx(expected, abs=1e-6)

    values.grad = None
    loss, stats = value_loss(values, old_values, returns, mask, cliprange_value=None)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 2.36 / 3, abs=1e-6)
    torch.testing.assert_close(values.grad, torch.tensor([[-1.0, 1.0, 0.6, 0.0]]) / 3)
    assert float(stats["clipfrac"]) == 0


@pytest.mark.parametrize("dual_clip", [None, 1.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_policy_loss_and_its_gradient_agree_with_the_reference(dual_clip, weighted):
    logprobs, old, advantages = batch(2, 0.7).requires_grad_(), batch(3, 0.7), batch(4)
    weights = batch(5).abs() if weighted else None
    loss, _ = policy_loss(
        logprobs, old, advantages, MASK, cliprange=0.2, weights=weights, dual_clip=dual_clip
    )
    loss.backward()
    olds, advs = reference.rows_of(old, MASK), reference.rows_of(advantages, MASK)
    weight_rows = reference.rows_of(weights, MASK) if weighted else None

    def expected(rows):
        return reference.policy_loss(rows, olds, advs, 0.2, weight_rows, dual_clip)

    rows = reference.rows_of(logprobs, MASK)
    assert loss.item() == pytest.approx(expected(rows), abs=1e-5)
    gradient = reference.padded(reference.numeric_gradient(expected, rows), 7)
    np.testing.assert_allclose(logprobs.grad.numpy(), gradient, atol=1e-5)


@pytest.mark.parametrize("cliprange_value", [None, 0.3])
def test_value_loss_and_its_gradient_agree_with_the_reference(cliprange_value):
    values, old, returns = batch(6).requires_grad_(), batch(7), batch(8)
    loss, _ = value_loss(values, old, returns, MASK, cliprange_value=cliprange_value)
    loss.backward()
    olds, rets = reference.rows_of(old, MASK), reference.rows_of(returns, MASK)

    def expected(rows):
        return reference.value_loss(rows, olds, rets, cliprange_value)

    rows = reference.rows_of(values, MASK)
    assert loss.item() == pytest.approx(expected(rows), abs=1e-5)
    gradient = reference.padded(reference.numeric_gradient(expected, rows), 7)
    np.testing.assert_allclose(values.grad.numpy(), gradient, atol=1e-5)


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_outside_the_mask_changes_neither_losses_nor_gradients(garbage):
    def run(fill):
        x, y, z, w = (torch.where(MASK, batch(seed), fill) for seed in (9, 10, 11, 12))
        leaf = x.requires_grad_()
        policy, policy_stats = policy_loss(leaf, y, z, MASK, cliprange=0.2, weights=w, dual_clip=3.0)
        value, value_stats = value_loss(leaf, y, z, MASK, cliprange_value=0.2)
        (policy + value).backward()
        return policy.item(), value.item(), numbers(policy_stats), numbers(value_stats), leaf.grad.tolist()

    assert run(garbage) == run(0.0)
    assert np.isfinite(run(garbage)[4]).all()


def test_rows_without_tokens_contribute_nothing():
    x, y, z = batch(13), batch(14), batch(15)
    longer = torch.cat([MASK, torch.zeros(2, 7, dtype=torch.bool)])

    def grown(t):
        return torch.cat([t, torch.full((2, 7), float("nan"))])

    for grown_result, result in (
        (
            policy_loss(grown(x), grown(y), grown(z), longer, cliprange=0.2),
            policy_loss(x, y, z, MASK, cliprange=0.2),
        ),
        (
            value_loss(grown(x), grown(y), grown(z), longer, cliprange_value=0.2),
            value_loss(x, y, z, MASK, cliprange_value=0.2),
        ),
    ):
        assert float(grown_result[0]) == pytest.approx(float(result[0]), rel=1e-6)
        assert numbers(grown_result[1]) == pytest.approx(numbers(result[1]), rel=1e-6)
    nothing = torch.zeros(4, 7, dtype=torch.bool)
    leaf = x.clone().requires_grad_()
    loss, stats = policy_loss(leaf, y, z, nothing, cliprange=0.2)
    loss.backward()
    assert loss.item() == 0
    assert not leaf.grad.any()
    assert set(numbers(stats).values()) == {0.0}


@pytest.mark.parametrize("row", [[True, False, True], [False, True, True]])
def test_holes_are_refused(row):
    mask, x = torch.tensor([row]), torch.zeros(1, 3)
    with pytest.raises(ValueError, match="holes"):
        policy_loss(x, x, x, mask, cliprange=0.2)
    with pytest.raises(ValueError, match="holes"):
        value_loss(x, x, x, mask, cliprange_value=0.2)
    with pytest.raises(ValueError, match="old_logprobs has shape"):
        policy_loss(x, x[0], x, torch.ones(1, 3, dtype=torch.bool), cliprange=0.2)


def test_half_precision_is_upcast():
    # In bfloat16 257 ones would sum to 256 and -0.001 would be lost beside -8
    x = torch.zeros(1, 257).bfloat16()
    mask = torch.ones(1, 257, dtype=torch.bool)
    loss, stats = policy_loss(x, x, x + 1, mask, cliprange=0.2, num_tokens=1)
    assert loss.dtype == torch.float32
    assert loss.item() == -257
    assert float(stats["ratio"]) == 257
    loss, _ = value_loss(x + 1, x, x, mask, cliprange_value=None, num_tokens=1)
    assert loss.item() == 128.5


ROWS, WIDTH, HIDDEN, VOCABULARY = 8, 6, 5, 11
ROW_LENGTHS = torch.tensor([6, 1, 2, 6, 3, 1, 5, 4])


def policy_and_critic_loss(weight, data, rows, num_tokens):
    """One micro-batch of a tiny actor-critic: a linear policy and a linear value."""
    mask = (torch.arange(WIDTH) < ROW_LENGTHS.unsqueeze(1))[rows]
    hidden, targets, old, advantages = (x[rows] for x in data)
    logprobs, _ = token_logprobs(hidden, weight, targets, temperature=0.7, mask=mask, chunk_tokens=4)
    policy, stats = policy_loss(logprobs, old, advantages, mask, cliprange=0.2, num_tokens=num_tokens)
    values = hidden @ weight[0]
    value, _ = value_loss(values, old, advantages, mask, cliprange_value=0.2, num_tokens=num_tokens)
    return policy + 0.1 * value, stats


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_line_20_micro_batches_over_ranks_give_the_gradient_of_the_whole_batch(num_ranks):
    generator = torch.Generator().manual_seed(16)
    weight = (0.2 * torch.randn(VOCABULARY, HIDDEN, generator=generator)).requires_grad_()
    data = (
        torch.randn(ROWS, WIDTH, HIDDEN, generator=generator),
        torch.randint(VOCABULARY, (ROWS, WIDTH), generator=generator),
        -2.4 + 0.3 * torch.randn(ROWS, WIDTH, generator=generator),
        torch.randn(ROWS, WIDTH, generator=generator),
    )
    whole, whole_stats = policy_and_critic_loss(weight, data, slice(0, ROWS), None)
    expected = torch.autograd.grad(whole, weight)[0]

    def gradient(num_tokens):
        """ZeRO and FSDP2 average over ranks; the loss is multiplied by their number."""
        total, stats = torch.zeros_like(weight), {}
        for rows in torch.arange(ROWS).view(num_ranks, 4 // num_ranks, 2).flatten(0, 1):
            loss, micro = policy_and_critic_loss(weight, data, rows, num_tokens)
            total += torch.autograd.grad(loss * num_ranks, weight)[0] / num_ranks
            stats = {name: stats.get(name, 0.0) + float(value) for name, value in micro.items()}
        return total, stats

    assert 0.1 < float(whole_stats["clipfrac"]) < 0.9
    total, stats = gradient(28)  # 6 + 1 + 2 + 6 + 3 + 1 + 5 + 4
    torch.testing.assert_close(total, expected, atol=1e-6, rtol=1e-5)
    for name in ("clipfrac", "approxkl", "ratio", "abs_log_ratio"):
        assert stats[name] == pytest.approx(float(whole_stats[name]), rel=1e-5)
    mean_of_means, _ = gradient(None)
    assert (mean_of_means / 4 - expected).abs().max() > 0.01
