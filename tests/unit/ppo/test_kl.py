import math

import pytest
import torch

from rlhf.errors import CheckpointError, TrainingError
from rlhf.ppo.kl import AdaptiveKLController, FixedKLController, kl_estimate


def test_line_15_estimators_on_numbers_worked_by_hand():
    logprobs = torch.log(torch.tensor([[0.5, 0.2, 0.3]]))
    ref_logprobs = torch.log(torch.tensor([[0.25, 0.4, 0.3]]))
    # log r = ln(1/2), ln 2, 0
    ln2 = math.log(2)
    expected = {
        "k1": [ln2, -ln2, 0.0],
        "k2": [ln2**2 / 2, ln2**2 / 2, 0.0],
        "k3": [0.5 - 1 + ln2, 2 - 1 - ln2, 0.0],
    }
    for kind, numbers in expected.items():
        assert kl_estimate(logprobs, ref_logprobs, kind)[0].tolist() == pytest.approx(numbers, abs=1e-6)


def test_k1_and_k3_have_the_kl_as_their_mean_and_k2_has_not():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    # KL(p || q) = 0.5 ln 2 + 0.5 ln(2/3) = 0.5 ln(4/3) = 0.143841; mean of k2 = (ln(2)^2 + ln(2/3)^2) / 4 = 0.161214
    means = {kind: float((p * kl_estimate(p.log(), q.log(), kind)).sum()) for kind in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(0.143841, abs=1e-6)
    assert means["k3"] == pytest.approx(0.143841, abs=1e-6)
    assert means["k2"] == pytest.approx(0.161214, abs=1e-6)


def test_line_15_expected_gradients_as_a_loss_on_policy():
    theta = torch.tensor([0.3, -0.7, 1.1], requires_grad=True)
    q = torch.tensor([0.2, 0.5, 0.3])
    p = theta.detach().softmax(0)
    reverse_kl = (p * (p / q).log()).sum()
    expected = {
        "k1": torch.zeros(3),
        "k2": p * ((p / q).log() - reverse_kl),  # d KL(p || q) / d theta
        "k3": p - q,  # d KL(q || p) / d theta
    }
    for kind, gradient in expected.items():
        loss = (p * kl_estimate(theta.log_softmax(0), q.log(), kind)).sum()
        torch.testing.assert_close(torch.autograd.grad(loss, theta)[0], gradient, atol=1e-6, rtol=0)


def test_k3_keeps_its_digits_where_the_policy_has_barely_moved():
    # exp(x) - 1 - x = x^2 / 2 + x^3 / 6 + ...
    estimate = kl_estimate(torch.tensor([-1e-2]), torch.tensor([0.0]), "k3")
    assert float(estimate) == pytest.approx(5.016708e-5, rel=1e-4)


def test_half_precision_is_upcast_before_the_difference():
    logprobs, ref_logprobs = torch.tensor([-1000.0]).bfloat16(), torch.tensor([-1.5]).bfloat16()
    estimate = kl_estimate(logprobs, ref_logprobs, "k1")
    assert estimate.dtype == torch.float32
    assert float(estimate) == -998.5  # bfloat16 knows -1000 and -1.5 but rounds their difference to -1000


def test_an_unknown_estimator_and_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(torch.zeros(1, 2), torch.zeros(1, 2), "k4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        kl_estimate(torch.zeros(1, 2), torch.zeros(2), "k1")


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.15),
        (6.6, 0.15 * 1.00512),  # error 0.1 x 512 / 10000
        (60.0, 0.15 * 1.01024),  # error 9 is clipped to 0.2
        (5.4, 0.15 * 0.99488),
        (0.0, 0.15 * 0.98976),  # error -1 is clipped to -0.2
        (-3.0, 0.15 * 0.98976),  # a batch's k1 may be negative
    ],
)
def test_line_16_adaptive_controller_on_numbers_worked_by_hand(kl, expected):
    controller = AdaptiveKLController(0.15, 6.0, 10_000)
    controller.update(kl, 512)
    assert controller.value == pytest.approx(expected, rel=1e-12)


def test_line_16_adaptive_controller_goes_on_from_its_state():
    first, whole = AdaptiveKLController(0.15, 6.0, 10_000), AdaptiveKLController(0.15, 6.0, 10_000)
    for kl in (1.0, 9.0):
        first.update(kl, 256)
        whole.update(kl, 256)
    second = AdaptiveKLController(0.15, 6.0, 10_000)
    second.load_state_dict(first.state_dict())
    for kl in (6.3, 20.0):
        second.update(kl, 256)
        whole.update(kl, 256)
    assert second.value == whole.value != first.value


def test_adaptive_controller_refuses_what_would_poison_it():
    controller = AdaptiveKLController(0.15, 6.0, 1_000)
    with pytest.raises(TrainingError, match="nan"):
        controller.update(float("nan"), 512)
    with pytest.raises(TrainingError, match="5000 episodes"):
        controller.update(0.0, 5_000)
    with pytest.raises(CheckpointError, match="value"):
        controller.load_state_dict({})
    assert controller.value == 0.15
    for arguments in ((-0.1, 6.0, 10), (0.1, 0.0, 10), (0.1, 6.0, 0)):
        with pytest.raises(ValueError, match="must be"):
            AdaptiveKLController(*arguments)


def test_fixed_controller_has_the_same_face_and_stays():
    controller = FixedKLController(0.05)
    controller.update(100.0, 512)
    controller.load_state_dict({"value": 3.0})
    assert controller.value == 0.05
    assert controller.state_dict() == {"value": 0.05}
    with pytest.raises(ValueError, match="kl_coef"):
        FixedKLController(-1.0)
