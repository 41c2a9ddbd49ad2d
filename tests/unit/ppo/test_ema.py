"""The moving average: its recursion by hand, and the swap into the policy and back."""

import peft
import pytest
import torch
from tiny_ppo import tiny_lm
from torch import nn

from rlhf.errors import CheckpointError
from rlhf.ppo.ema import PolicyEMA


class Two(nn.Module):
    """Two weights that train and one that does not."""

    def __init__(self, *values, dtype=torch.float32):
        super().__init__()
        self.moving = nn.Parameter(torch.tensor(values, dtype=dtype))
        self.fixed = nn.Parameter(torch.tensor([5.0]), requires_grad=False)

    def set(self, *values):
        with torch.no_grad():
            self.moving.copy_(torch.tensor(values))


def averaged(model, ema):
    with ema.applied():
        return model.moving.tolist()


def test_the_average_follows_its_recursion():
    model = Two(1.0, -2.0)
    ema = PolicyEMA(model, decay=0.75)
    assert averaged(model, ema) == [1.0, -2.0]
    model.set(5.0, 2.0)
    ema.update()
    assert averaged(model, ema) == [2.0, -1.0]  # 3/4 x 1 + 1/4 x 5; 3/4 x -2 + 1/4 x 2
    model.set(10.0, 3.0)
    ema.update()
    assert averaged(model, ema) == [4.0, 0.0]  # 3/4 x 2 + 1/4 x 10; 3/4 x -1 + 1/4 x 3


def test_weights_that_do_not_move_have_themselves_as_average():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist()
    model = Two(*values)
    ema = PolicyEMA(model, decay=0.999)
    for _ in range(20):
        ema.update()
    assert averaged(model, ema) == model.moving.tolist()


def test_the_average_of_bfloat16_weights_is_kept_in_float32():
    model = Two(1.0, dtype=torch.bfloat16)
    ema = PolicyEMA(model, decay=0.999)
    model.set(2.0)
    for _ in range(4):
        ema.update()
    # 2 - 0.999^4: the first step of 0.001 is lost in bfloat16, whose next number after 1 is 1.0078
    assert float(ema.state_dict()["shadow"]["moving"]) == pytest.approx(2 - 0.999**4, abs=1e-6)


def fail_in_evaluation(model, ema, before):
    with ema.applied():
        assert not any(torch.equal(w, before[name]) for name, w in model.named_parameters() if w.dim() > 1)
        raise KeyError("in evaluation")


def test_the_trained_weights_come_back_bit_for_bit_even_after_an_error():
    model = tiny_lm()
    ema = PolicyEMA(model, decay=0.5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.37)
    ema.update()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    places = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    with pytest.raises(KeyError):
        fail_in_evaluation(model, ema, before)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.data_ptr() == places[name], name


def test_the_average_does_not_move_while_it_is_in_the_policy():
    model = Two(1.0)
    ema = PolicyEMA(model, decay=0.5)
    with ema.applied():
        with pytest.raises(AssertionError):
            ema.update()
        with pytest.raises(AssertionError), ema.applied():
            pass
    ema.update()


def test_only_the_adapter_is_followed_under_lora():
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny_lm(), config)
    ema = PolicyEMA(model, decay=0.5)
    followed = ema.state_dict()["shadow"]
    assert len(followed) == 4, "A and B in two layers"
    assert all("lora_" in name for name in followed)
    weight = next(value for name, value in model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        weight.fill_(8.0)
    ema.update()
    with ema.applied():
        assert torch.equal(weight, torch.full_like(weight, 4.0))  # B starts as 0
    assert torch.equal(weight, torch.full_like(weight, 8.0))


def test_a_resumed_average_goes_on_as_if_never_interrupted(tmp_path):
    model, other = Two(1.0, 3.0), Two(9.0, 9.0)
    ema = PolicyEMA(model, decay=0.9)
    model.set(0.1, 0.7)
    ema.update()
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    resumed = PolicyEMA(other, decay=0.9)
    resumed.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    for each, average in ((model, ema), (other, resumed)):
        each.set(0.3, 0.2)
        average.update()
    assert averaged(other, resumed) == averaged(model, ema)


@pytest.mark.parametrize(
    "state",
    [{}, {"shadow": {}}, {"shadow": {"moving": torch.zeros(3)}}, {"shadow": {"else": torch.zeros(2)}}],
)
def test_the_state_of_another_policy_is_refused(state):
    with pytest.raises(CheckpointError):
        PolicyEMA(Two(1.0, 2.0), decay=0.9).load_state_dict(state)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        PolicyEMA(Two(1.0), decay=decay)


def test_a_policy_without_a_trained_weight_is_refused():
    model = Two(1.0)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to average"):
        PolicyEMA(model, decay=0.5)
