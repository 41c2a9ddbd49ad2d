"""Lean norms and rotations: by finite differences, beside transformers' own, and gone when they are over."""

import pytest
import torch
from torch.autograd import gradcheck
from transformers import AutoConfig, AutoModel
from transformers.models.llama import modeling_llama

from rlhf.models.lean import RMSNorm, Rotate, lean_operators

NORMS = {"llama": 5, "mistral": 5, "qwen2": 5, "qwen3": 9, "gemma": 5, "gpt2": 0, "gpt_neox": 0}
"""RMSNorms of two layers: two each and one behind the last; Qwen3 has two more a layer, of queries and keys."""


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def backbone(model_type, dtype=torch.float32):
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 50,
        "pad_token_id": 0,
    }
    if model_type not in ("gpt2", "gpt_neox"):
        shape |= {"num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8}
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **shape), dtype=dtype).eval()
    for name, parameter in model.named_parameters():  # else norms' weights are 1, or 0
        if "norm" in name or "ln_" in name:
            parameter.data += randn(*parameter.shape, seed=3, dtype=dtype) / 4
    return model


def states_and_gradients(model):
    ids = torch.arange(24).view(2, 12)
    states = model(input_ids=ids, use_cache=False).last_hidden_state
    (states.float() * randn(*states.shape, seed=1, dtype=torch.float32)).sum().backward()
    return states.detach(), {
        name: each.grad for name, each in model.named_parameters() if each.grad is not None
    }


def test_a_norm_by_hand():
    """mean(x^2) = (9 + 16) / 2 = 12.5, so with eps = 0 and weights 2 and 1: 3 / sqrt(12.5) * 2, 4 / sqrt(12.5)."""
    found = RMSNorm.apply(torch.tensor([[3.0, 4.0]]), torch.tensor([2.0, 1.0]), 0.0)
    assert found[0].tolist() == pytest.approx([1.697056, 1.131371], abs=1e-6)
    with_eps = RMSNorm.apply(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 1.0]), 12.5)
    assert with_eps[0].tolist() == pytest.approx([0.6, 0.8], abs=1e-6)


def test_a_rotation_by_hand():
    """A quarter turn of the pair (1, 2), whose parts lie half a head apart, is (-2, 1); the pair (3, 5) stays."""
    cos, sin = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    found = Rotate.apply(torch.tensor([1.0, 3.0, 2.0, 5.0]).view(1, 1, 1, 4), cos, sin)
    assert found.flatten().tolist() == [-2.0, 3.0, 1.0, 5.0]


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_gradients_of_a_norm_by_finite_differences(needed):
    states, weight = randn(2, 3, 5).requires_grad_(needed[0]), randn(5, seed=1).requires_grad_(needed[1])
    assert gradcheck(lambda x, w: RMSNorm.apply(x, w, 0.1), (states, weight))


def test_gradients_of_a_rotation_by_finite_differences():
    angles = randn(1, 1, 3, 4, seed=1)
    states = randn(2, 2, 3, 4).requires_grad_()
    assert gradcheck(lambda x: Rotate.apply(x, angles.cos(), angles.sin()), (states,))


@pytest.mark.parametrize("model_type", NORMS)
def test_states_and_gradients_are_those_of_transformers(model_type, monkeypatch):
    calls = {RMSNorm: 0, Rotate: 0}

    def counted(function):
        plain = function.apply

        def apply(*inputs):
            calls[function] += 1
            return plain(*inputs)

        return apply

    plain_states, plain_gradients = states_and_gradients(backbone(model_type))
    for function in calls:
        monkeypatch.setattr(function, "apply", counted(function))
    model = backbone(model_type)
    with lean_operators(model):
        states, gradients = states_and_gradients(model)
    rotations = 4 if NORMS[model_type] else 0  # queries and keys of two layers
    assert list(calls.values()) == [NORMS[model_type], rotations]
    assert torch.allclose(states, plain_states, rtol=0, atol=1e-5)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        scale = float(plain_gradients[name].abs().max())
        assert torch.allclose(gradient, plain_gradients[name], rtol=0, atol=1e-5 * max(scale, 1e-3)), name


def test_other_precisions_are_computed_as_ever():
    plain_states, plain_gradients = states_and_gradients(backbone("llama", torch.bfloat16))
    model = backbone("llama", torch.bfloat16)
    with lean_operators(model):
        states, gradients = states_and_gradients(model)
    assert torch.equal(states, plain_states)
    assert all(torch.equal(gradients[name], plain_gradients[name]) for name in plain_gradients)


def test_transformers_is_as_it_was_after_a_failed_pass():
    def fails_within():
        with lean_operators(model):
            within.append(operators())
            model(input_ids=torch.tensor([[50]]))

    def operators():
        return modeling_llama.LlamaRMSNorm.forward, modeling_llama.apply_rotary_pos_emb

    model, within, before = backbone("llama"), [], operators()
    with pytest.raises(IndexError):
        fails_within()
    assert operators() == before
    assert not {*within[0]} & {*before}
