"""Learning rates against numbers worked out by hand."""

import pytest
import torch
from tiny_ppo import section_of

from rlhf.ppo.schedule import learning_rate, set_learning_rates


def test_linear_rises_and_falls_linearly():
    section = section_of(num_steps=10, warmup_fraction=0.2, lr_floor_fraction=0.1)
    rates = [learning_rate(1.0, "linear", section, step) for step in (0, 1, 5, 9)]
    # two steps of warm-up; from 1 at step 0 by 0.09 a step
    assert rates == pytest.approx([0.5, 0.91, 0.55, 0.19])


def test_cosine_falls_along_half_a_cosine_to_the_floor():
    section = section_of(num_steps=12, lr_floor_fraction=0.2)
    rates = [learning_rate(2.0, "cosine", section, step) for step in (0, 4, 6, 8)]
    # cos 0 = 1, cos 60 = 1/2, cos 90 = 0, cos 120 = -1/2; of the 0.8 above the floor 1, 3/4, 1/2, 1/4 are left
    assert rates == pytest.approx([2.0, 1.6, 1.2, 0.8])


def test_cosine_is_warmed_up_too():
    section = section_of(num_steps=12, warmup_fraction=0.5)
    # the 5th of 6 steps of warm-up, where (1 + cos 60) / 2 = 3/4 is left
    assert learning_rate(1.0, "cosine", section, 4) == pytest.approx(5 / 6 * 3 / 4)


def test_constant_stays_at_the_peak_after_warm_up():
    section = section_of(num_steps=10, warmup_fraction=0.4, lr_floor_fraction=0.1)
    rates = [learning_rate(3.0, "constant", section, step) for step in (0, 1, 3, 4, 9)]
    assert rates == pytest.approx([0.75, 1.5, 3.0, 3.0, 3.0])


def groups_of(section, step):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    roles = [
        {"params": [parameter], "role": role}
        for parameter, role in zip(parameters, ("policy", "critic"), strict=True)
    ]
    optimizer = torch.optim.SGD(roles, lr=7.0)
    rates = set_learning_rates(optimizer, section, step)
    assert rates == {group["role"]: group["lr"] for group in optimizer.param_groups}
    return rates


def test_the_critic_follows_the_policy_unless_told():
    assert groups_of(section_of(learning_rate=0.4), 5) == pytest.approx({"policy": 0.2, "critic": 0.2})


def test_the_critic_has_a_rate_and_a_schedule_of_its_own():
    own_rate = section_of(learning_rate=0.4, critic_learning_rate=3.0)
    assert groups_of(own_rate, 5) == pytest.approx({"policy": 0.2, "critic": 1.5})
    own_schedule = section_of(learning_rate=0.4, critic_schedule="constant")
    assert groups_of(own_schedule, 5) == pytest.approx({"policy": 0.2, "critic": 0.4})


def test_only_the_critic_has_a_rate_while_only_it_trains():
    section = section_of(learning_rate=0.4, critic_warmup_steps=2, schedule="constant")
    assert [groups_of(section, step)["policy"] for step in range(4)] == [0.0, 0.0, 0.4, 0.4]
    assert groups_of(section, 0)["critic"] == 0.4
