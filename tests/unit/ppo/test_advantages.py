import numpy as np
import ppo_reference as reference
import pytest
import torch

from rlhf.ppo.advantages import gae, masked_moments, token_rewards, whiten

LENGTHS = [5, 1, 7, 3]
MASK = torch.arange(7) < torch.tensor(LENGTHS).unsqueeze(1)
HOLES = [[True, False, True], [False, True, True]]
GARBAGE = [float("nan"), float("inf"), float("-inf"), 1e30]


def batch(seed):
    return torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))


def soiled(x, garbage):
    return torch.where(MASK, x, garbage)


def test_line_13_token_rewards_on_numbers_worked_by_hand():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    logprobs = torch.tensor([[-1.0, -2.0, -0.5, 9.0], [-1.0, 9.0, 9.0, 9.0]])
    ref_logprobs = torch.tensor([[-1.5, -1.0, -0.5, 5.0], [-3.0, 5.0, 5.0, 5.0]])
    rewards = token_rewards(torch.tensor([2.0, -1.0]), logprobs, ref_logprobs, mask, kl_coef=0.1)
    # k1 = 0.5, -1, 0 and 2; the score on token 2 and on token 0
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 2.0, 0.0], [-1.2, 0.0, 0.0, 0.0]]))

    rewards = token_rewards(
        torch.tensor([2.0, -1.0]), logprobs, ref_logprobs, mask, kl_coef=0.1, kl_estimator="k3"
    )
    # k3 = exp(-0.5) - 0.5, exp(1) - 2, 0 and exp(-2) + 1
    expected = torch.tensor([[-0.01065307, -0.07182818, 2.0, 0.0], [-1.11353353, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(rewards, expected)


def test_token_rewards_subtract_penalties():
    mask = torch.tensor([[True, True, False]])
    zeros = torch.zeros(1, 3)
    penalties = torch.tensor([[0.25, 1.0, float("nan")]])
    rewards = token_rewards(torch.tensor([3.0]), zeros, zeros, mask, kl_coef=0.1, penalties=penalties)
    assert rewards.tolist() == [[-0.25, 2.0, 0.0]]


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_line_13_token_rewards_agree_with_the_reference_and_sum_to_score_minus_kl(kind):
    scores, logprobs, ref_logprobs = torch.tensor([1.5, -2.0, 0.0, 4.0]), batch(0), batch(1)
    rewards = token_rewards(scores, logprobs, ref_logprobs, MASK, kl_coef=0.3, kl_estimator=kind)
    logps, refs = reference.rows_of(logprobs, MASK), reference.rows_of(ref_logprobs, MASK)
    expected = reference.token_rewards(scores.tolist(), logps, refs, 0.3, kind)
    np.testing.assert_allclose(rewards.numpy(), reference.padded(expected, 7), atol=1e-5)
    for i, (p, q) in enumerate(zip(logps, refs, strict=True)):
        kl = sum(reference.kl_token(a, b, kind) for a, b in zip(p, q, strict=True))
        assert float(rewards[i].sum()) == pytest.approx(float(scores[i]) - 0.3 * kl, abs=1e-5)


def test_token_rewards_without_a_coefficient_are_the_score_alone():
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0]), batch(0), batch(1), MASK, kl_coef=0.0)
    assert [rewards[i, n - 1].item() for i, n in enumerate(LENGTHS)] == [1.0, 2.0, 3.0, 4.0]
    assert rewards.sum().item() == 10.0


def test_token_rewards_refuse_a_row_without_tokens_k2_and_scores_of_another_shape():
    mask = torch.tensor([[True, True], [False, False]])
    zeros = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        token_rewards(torch.zeros(2), zeros, zeros, mask, kl_coef=0.1)
    full = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="k2"):
        token_rewards(torch.zeros(2), zeros, zeros, full, kl_coef=0.1, kl_estimator="k2")
    with pytest.raises(ValueError, match="scores"):
        token_rewards(torch.zeros(2, 1), zeros, zeros, full, kl_coef=0.1)


def test_line_18_gae_on_numbers_worked_by_hand():
    rewards, values = torch.tensor([[1.0, 0.0, 2.0, 7.0]]), torch.tensor([[0.5, 1.0, 1.5, 7.0]])
    mask = torch.tensor([[True, True, True, False]])
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    # deltas 1 + 0.9 - 0.5 = 1.4, 1.35 - 1 = 0.35, 2 - 1.5 = 0.5; 0.35 + 0.72 x 0.5 = 0.71; 1.4 + 0.72 x 0.71 = 1.9112
    torch.testing.assert_close(advantages, torch.tensor([[1.9112, 0.71, 0.5, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[2.4112, 1.71, 2.0, 0.0]]))

    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8, bootstrap_values=torch.tensor([4.0]))
    # the last delta is 2 + 0.9 x 4 - 1.5 = 4.1; 0.35 + 0.72 x 4.1 = 3.302; 1.4 + 0.72 x 3.302 = 3.77744
    torch.testing.assert_close(advantages, torch.tensor([[3.77744, 3.302, 4.1, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[4.27744, 4.302, 5.6, 0.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7), (0.99, 1.0), (0.99, 0.0)])
@pytest.mark.parametrize("bootstrap", [None, [0.0, 2.0, 0.0, -1.5]])
def test_gae_agrees_with_the_reference(gamma, lam, bootstrap):
    rewards, values = batch(2), batch(3)
    last = None if bootstrap is None else torch.tensor(bootstrap)
    advantages, returns = gae(rewards, values, MASK, gamma=gamma, lam=lam, bootstrap_values=last)
    expected = reference.gae(
        reference.rows_of(rewards, MASK), reference.rows_of(values, MASK), gamma, lam, bootstrap or [0.0] * 4
    )
    np.testing.assert_allclose(advantages.numpy(), reference.padded(expected[0], 7), atol=1e-5)
    np.testing.assert_allclose(returns.numpy(), reference.padded(expected[1], 7), atol=1e-5)


def test_line_18_lambda_one_returns_the_discounted_rewards_and_lambda_zero_the_one_step_target():
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[5.0, -3.0, 8.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    _, returns = gae(rewards, values, mask, gamma=0.5, lam=1.0)
    torch.testing.assert_close(returns, torch.tensor([[3.0, 4.0, 4.0]]))  # 1 + 0.5 x (2 + 0.5 x 4)
    _, returns = gae(rewards, values, mask, gamma=0.5, lam=0.0)
    torch.testing.assert_close(returns, torch.tensor([[-0.5, 6.0, 4.0]]))  # r + 0.5 x the next value


@pytest.mark.parametrize("garbage", GARBAGE)
def test_line_18_garbage_outside_the_mask_changes_no_reward_advantage_or_moment(garbage):
    scores, x, y = torch.ones(4), batch(4), batch(5)
    clean_x, clean_y = soiled(x, 0.0), soiled(y, 0.0)
    dirty_x, dirty_y = soiled(x, garbage), soiled(y, garbage)
    for kind in ("k1", "k3"):
        clean = token_rewards(scores, clean_x, clean_y, MASK, kl_coef=0.2, kl_estimator=kind)
        dirty = token_rewards(
            scores,
            dirty_x,
            dirty_y,
            MASK,
            kl_coef=0.2,
            kl_estimator=kind,
            penalties=soiled(torch.zeros(4, 7), garbage),
        )
        assert torch.equal(clean, dirty)
        assert not dirty[~MASK].any()
    for clean, dirty in zip(
        gae(clean_x, clean_y, MASK, gamma=0.9, lam=0.9),
        gae(dirty_x, dirty_y, MASK, gamma=0.9, lam=0.9),
        strict=True,
    ):
        assert torch.equal(clean, dirty)
        assert not dirty[~MASK].any()
    assert masked_moments(clean_x, MASK) == masked_moments(dirty_x, MASK)
    for shift_mean in (True, False):
        whitened = whiten(dirty_x, MASK, shift_mean=shift_mean)
        assert torch.equal(whitened, whiten(clean_x, MASK, shift_mean=shift_mean))
        assert not whitened[~MASK].any()


def test_garbage_outside_the_mask_leaves_the_gradient_clean():
    x = soiled(batch(6), float("nan")).requires_grad_()
    (whiten(x, MASK).pow(3).sum() + gae(x, x, MASK, gamma=0.9, lam=0.9)[0].square().sum()).backward()
    assert x.grad.isfinite().all()
    assert not x.grad[~MASK].any()
    assert x.grad[MASK].any()


def test_moments_and_whitening_on_numbers_worked_by_hand():
    x, mask = torch.tensor([[1.0, 2.0, 99.0], [3.0, 6.0, 99.0]]), torch.tensor([[True, True, False]] * 2)
    # mean 3; squared deviations 4 + 1 + 0 + 9 = 14; variance 14 / 4 = 3.5, its root 1.8708287
    assert [float(m) for m in masked_moments(x, mask)] == [4.0, 3.0, 14.0]
    shifted = torch.tensor([[-1.0690450, -0.5345225, 0.0], [0.0, 1.6035675, 0.0]])
    torch.testing.assert_close(whiten(x, mask), shifted)
    torch.testing.assert_close(whiten(x, mask, shift_mean=False), torch.where(mask, shifted + 3, 0.0))
    # (x - 3) / sqrt(3.5 + 0.5) = (x - 3) / 2
    torch.testing.assert_close(whiten(x, mask, eps=0.5), torch.tensor([[-1.0, -0.5, 0.0], [0.0, 1.5, 0.0]]))


def test_whitening_by_other_moments_takes_their_mean_and_variance():
    x, mask = torch.tensor([[1.0, 5.0, 99.0]]), torch.tensor([[True, True, False]])
    # two numbers of mean 3 and m2 8, so of variance 4: (x - 3) / 2
    moments = (torch.tensor(2.0), torch.tensor(3.0), torch.tensor(8.0))
    torch.testing.assert_close(whiten(x, mask, moments=moments), torch.tensor([[-1.0, 1.0, 0.0]]))
    # ten numbers of mean 2 and m2 10, so of variance 1: x - 2
    moments = (torch.tensor(10.0), torch.tensor(2.0), torch.tensor(10.0))
    torch.testing.assert_close(whiten(x, mask, moments=moments), torch.tensor([[-1.0, 3.0, 0.0]]))


def test_whitened_numbers_have_mean_0_and_variance_1():
    kept = whiten(batch(7) * 3 + 100, MASK)[MASK].numpy().astype(np.float64)
    np.testing.assert_allclose(kept.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(kept.var(), 1, atol=1e-4)


def test_whitening_one_token_or_none_stays_finite():
    x = torch.tensor([[5.0, 1.0]])
    assert whiten(x, torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]
    assert whiten(x, torch.tensor([[False, False]])).tolist() == [[0.0, 0.0]]


def test_a_mask_of_one_dimension_selects_rows_in_any_pattern():
    scores, answered = torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([True, False, True])
    assert [float(m) for m in masked_moments(scores, answered)] == [2.0, 2.0, 2.0]
    torch.testing.assert_close(whiten(scores, answered), torch.tensor([-1.0, 0.0, 1.0]))


def test_half_precision_is_summed_in_float32():
    x = torch.ones(1, 3001, dtype=torch.bfloat16)
    count, mean, m2 = masked_moments(x, torch.ones(1, 3001, dtype=torch.bool))
    assert (float(count), float(mean), float(m2)) == (3001.0, 1.0, 0.0)
    mask = torch.ones(1, 3, dtype=torch.bool)
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]).bfloat16(), torch.tensor([[0.0, 0.0, 256.0]]).bfloat16()
    advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=0.5)
    assert advantages.dtype == torch.float32
    assert advantages.tolist() == [[64.25, 128.5, -255.0]]  # 256 - 127.5 = 128.5 and 128.5 / 2


@pytest.mark.parametrize("row", HOLES)
def test_holes_are_refused(row):
    mask, x = torch.tensor([[True, True, True], row]), torch.zeros(2, 3)
    calls = [
        lambda: token_rewards(torch.zeros(2), x, x, mask, kl_coef=0.1),
        lambda: gae(x, x, mask, gamma=1.0, lam=1.0),
        lambda: masked_moments(x, mask),
        lambda: whiten(x, mask),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"rows \[1\]: holes"):
            call()


def test_masks_of_another_type_and_shapes_that_would_broadcast_are_refused():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="bool"):
        whiten(x, torch.ones(2, 3))
    with pytest.raises(ValueError, match="values has shape"):
        gae(x, torch.zeros(1, 3), torch.ones(2, 3, dtype=torch.bool), gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match="bootstrap_values"):
        gae(x, x, torch.ones(2, 3, dtype=torch.bool), gamma=1.0, lam=1.0, bootstrap_values=torch.zeros(2, 1))
