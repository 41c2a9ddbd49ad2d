"""A loss or gradient that is not finite stops before the weights change, and names the rows it came from."""

import math

import pytest
import torch
from knobs_ppo import ANY_RATIO, knobs
from tiny_ppo import longest_first, made_up_targets

from rlhf.ppo.nonfinite import NonFiniteError, UpdateError
from rlhf.ppo.prompts import permutation
from rlhf.ppo.ptx import SFTRow


@pytest.mark.parametrize(("per_device", "size"), [(1, 1), (3, 3), (8, 8)])
def test_a_loss_that_is_not_finite_names_its_micro_batch(per_device, size):
    ppo = knobs(per_device_batch_size=per_device, num_minibatches=1)
    rollout, before = ppo.collect(), ppo.weights()
    advantages, returns = made_up_targets(rollout)
    order = longest_first(rollout)
    returns[order[1], 0] = float("nan")
    with pytest.raises(NonFiniteError) as caught:
        ppo.updater.update(rollout, advantages, returns, 0)
    start = 1 // per_device * per_device
    assert caught.value.rows == sorted(order[start : start + per_device])
    assert len(caught.value.rows) == size
    assert caught.value.step == 0
    assert all(torch.equal(ppo.weights()[name], value) for name, value in before.items())


def test_a_gradient_that_is_not_finite_names_the_minibatch():
    ppo = knobs(num_minibatches=2)
    rollout, before = ppo.collect(), ppo.weights()
    ppo.policy.lm_head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UpdateError, match=r"gradient norm .*not finite") as caught:
        ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert caught.value.rows == sorted(permutation(8, 11, 0, 0).tolist()[:4])
    assert all(torch.equal(ppo.weights()[name], value) for name, value in before.items())


def test_an_sft_loss_that_is_not_finite_names_the_sft_rows():
    rows = [SFTRow([1, 2, 3], [True] * 3, weight=math.inf if n == 4 else 1.0) for n in range(5)]
    ppo = knobs(ptx_coef=0.1, ptx_batch_size=5, sft_rows=rows)
    rollout, before = ppo.collect(), ppo.weights()
    with pytest.raises(NonFiniteError, match="SFT rows") as caught:
        ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert (caught.value.rows, caught.value.sft_rows) == ([], [0, 1, 2, 3, 4])
    assert all(torch.equal(ppo.weights()[name], value) for name, value in before.items())


def test_a_log_ratio_that_is_infinite_is_not_taken_for_a_kl_above_the_target():
    ppo = knobs(target_kl=0.1, per_device_batch_size=1, **ANY_RATIO)
    rollout = ppo.collect()
    advantages, returns = made_up_targets(rollout)
    rollout.logprobs[3, 0] = math.inf  # the ratio is 0 there and the loss finite
    with pytest.raises(NonFiniteError) as caught:
        ppo.updater.update(rollout, advantages, returns, 0)
    assert caught.value.rows == [3]
