"""Where the device decides whether a step is made, the host reads a minibatch's numbers while the next one passes."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from tiny_ppo import TinyPPO, made_up_targets, section_of

from rlhf.ppo.nonfinite import UpdateError
from rlhf.ppo.passes import Passes
from rlhf.ppo.prompts import permutation
from rlhf.ppo.sharding import gradient_norm
from rlhf.ppo.spikes import NEEDED
from rlhf.ppo.stepping import Stepper
from rlhf.ppo.update import Updater


def two_minibatches(**changes):
    return TinyPPO(section_of(learning_rate=1e-2, num_minibatches=2, num_epochs=1, **changes))


def state(ppo):
    """Weights, moments and step counts."""
    moments = {
        f"{place}/{name}": value.clone()
        for place, values in ppo.optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    return ppo.weights() | moments


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("max_grad_norm", [1e6, 0.05])
def test_it_steps_as_where_the_host_decides(max_grad_norm):
    found = []
    for on_device in (True, False):
        ppo = TinyPPO(
            section_of(learning_rate=1e-2, num_minibatches=2, num_epochs=2, max_grad_norm=max_grad_norm)
        )
        rollout = ppo.collect()
        assert ppo.updater.stepper.decides_on_device
        ppo.updater.stepper.decides_on_device = on_device
        found.append((ppo.updater.update(rollout, *made_up_targets(rollout), 0), state(ppo)))
    (stats, weights), (host_stats, host_weights) = found
    assert stats == pytest.approx(host_stats, rel=1e-5, abs=1e-7)
    assert stats["policy/num_updates"] == 4
    for name, value in weights.items():
        assert torch.allclose(value, host_weights[name], rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("what", ["loss", "gradient", "spike", "kl"])
def test_a_bad_minibatch_leaves_weights_moments_and_counts_as_they_were(what, monkeypatch):
    changes = {"kl": {"target_kl": 1e-12}, "spike": {"spike_factor": 10.0}}.get(what, {})
    ppo = two_minibatches(**changes)
    rollout = ppo.collect()
    advantages, returns = made_up_targets(rollout)
    second = permutation(8, 11, 0, 0).tolist()[4:]
    if what == "loss":
        returns[second[0], 0] = math.nan
    if what == "gradient":
        passes = iter([1.0, math.inf])
        ppo.policy.lm_head.weight.register_hook(lambda gradient: gradient * next(passes))
    if what == "spike":
        ppo.updater.stepper.gradient_norms.recent["policy"] = [10.0] * NEEDED
        returns[second] *= 1e4
    states = []
    real = Stepper.step_if

    def watched(*given):
        states.append(state(ppo))
        real(*given)
        states.append(state(ppo))

    monkeypatch.setattr(Stepper, "step_if", watched)
    if what == "kl":
        stats = ppo.updater.update(rollout, advantages, returns, 0)
        assert (stats["policy/num_updates"], stats["policy/epochs_stopped_early"]) == (1, 1)
    else:
        words = {"loss": "loss nan", "gradient": "norm .* not finite", "spike": "times the median"}
        with pytest.raises(UpdateError, match=words[what]) as caught:
            ppo.updater.update(rollout, advantages, returns, 0)
        assert caught.value.rows == sorted(second)
    first, after_first, before, after = states
    assert not same(first, after_first)
    assert same(before, after)
    assert {float(value) for name, value in after.items() if name.endswith("/step")} == {1.0}


def test_host_and_device_must_say_the_same(monkeypatch):
    ppo = two_minibatches()
    rollout = ppo.collect()
    real = Stepper.is_good
    monkeypatch.setattr(Stepper, "is_good", lambda *given: ~real(*given))
    with pytest.raises(RuntimeError, match="host and device differ on minibatch 0"):
        ppo.updater.update(rollout, *made_up_targets(rollout), 0)


def test_a_good_minibatch_does_not():
    ppo = two_minibatches()
    rollout = ppo.collect()
    before = state(ppo)
    stats = ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert stats["policy/num_updates"] == 2
    after = state(ppo)
    assert not any(torch.equal(value, after[name]) for name, value in before.items() if "norm" not in name)
    assert {float(value) for name, value in after.items() if name.endswith("/step")} == {2.0}


def test_numbers_are_read_behind_the_next_pass(monkeypatch):
    ppo = TinyPPO(section_of(num_minibatches=2, num_epochs=2))
    rollout = ppo.collect()
    events = []
    passing, reading, stepping = Passes.of, Updater._stops, Stepper.step_if
    monkeypatch.setattr(Passes, "of", lambda *given: events.append("pass") or passing(*given))
    monkeypatch.setattr(Updater, "_stops", lambda *given: events.append("read") or reading(*given))
    monkeypatch.setattr(Stepper, "step_if", lambda *given: events.append("step") or stepping(*given))
    ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    read_at_once = ["pass", "read", "step"]
    assert events == [*read_at_once, "pass", "step", *["pass", "read", "step"] * 2, "read"]


def test_a_kl_above_the_target_is_found_behind_the_next_pass_whose_gradients_are_dropped():
    ppo = TinyPPO(section_of(learning_rate=1e-2, num_minibatches=2, num_epochs=2, target_kl=1e-8))
    rollout = ppo.collect()
    stats = ppo.updater.update(rollout, *made_up_targets(rollout), 0)
    assert (stats["policy/num_updates"], stats["policy/epochs_stopped_early"]) == (1, 1)
    assert all(parameter.grad is None for parameter in ppo.model.parameters())
    assert {float(value) for name, value in state(ppo).items() if name.endswith("/step")} == {1.0}


def test_the_host_decides_where_the_device_cannot():
    kinds = {"joint": True, "per_role": False}
    for kind, expected in kinds.items():
        assert TinyPPO(section_of(clip_gradients=kind)).updater.stepper.decides_on_device == expected
    ppo = TinyPPO(section_of())
    plain = torch.optim.AdamW([{"params": list(ppo.model.parameters()), "role": "policy"}])
    stepper = Stepper(ppo.section, accelerator=ppo.accelerator, model=ppo.model, optimizer=plain)
    assert not stepper.decides_on_device


def test_norms_are_float32_on_the_process_device_wherever_gradients_lie():
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    parameter.grad = torch.full((3,), 2.0, dtype=torch.bfloat16)
    there = SimpleNamespace(distributed_type=DistributedType.NO, device=torch.device("meta"))
    here = SimpleNamespace(distributed_type=DistributedType.NO, device=torch.device("cpu"))
    norm = gradient_norm(there, parameter, [parameter])
    assert (norm.device.type, norm.dtype, norm.shape) == ("meta", torch.float32, ())
    assert float(gradient_norm(here, parameter, [parameter])) == pytest.approx(math.sqrt(12), rel=1e-2)
    parameter.grad = None
    assert float(gradient_norm(here, parameter, [parameter])) == 0.0
