"""MLPs see the tokens that count alone, and what is read does not change by it."""

import pytest
import torch
from test_graph_engine import family
from tiny_ppo import tiny_rm

from rlhf.models import forward
from rlhf.models.forward import hidden_states, pad_left, pad_right, sequence_scores
from rlhf.models.load import TESTED_FAMILIES, layers_of, takes_shortcuts
from rlhf.models.mlps import mlps_on

CPU = torch.device("cpu")
ROWS = [[5, 9, 3, 7, 4, 1], [6, 1], [8, 1, 5, 1, 7, 9, 3, 1], [4]]
READ = [[0, 1, 1, 1, 1, 0], [1, 0], [0, 0, 0, 1, 1, 1, 1, 0], [0]]
"""States of the third row's last four tokens but one, say, are those before its response tokens."""


def seen_by(model):
    """Tokens that each layer's MLP is called with, call after call."""
    seen = []
    for number, layer in enumerate(layers_of(model)):
        layer.mlp.register_forward_hook(
            lambda _, inputs, output, number=number: seen.append((number, inputs[0].shape[:-1].numel()))
        )
    return seen


def batch(pad):
    ids, mask = pad(ROWS, CPU)
    read, _ = pad(READ, CPU)
    return ids, mask, read.bool()


@pytest.mark.parametrize("pad", [pad_left, pad_right])
@pytest.mark.parametrize("model_type", TESTED_FAMILIES)
def test_states_that_are_read_and_gradients_are_those_of_a_plain_pass(model_type, pad, monkeypatch):
    ids, mask, read = batch(pad)
    weights = torch.randn(int(read.sum()), 1, generator=torch.Generator().manual_seed(3))
    found = {}
    for name, settings in {"plain": {}, "ours": {"read": read, "num_read": int(read.sum())}}.items():
        model = family(model_type).eval()
        with monkeypatch.context() as patch:
            if name == "plain":
                patch.setattr(forward, "takes_shortcuts", lambda _: False)
            states = hidden_states(model, ids, mask, **settings)[read]
        (states * weights).sum().backward()
        grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        found[name] = states.detach(), grads
    (plain, plain_grads), (ours, our_grads) = found.values()
    assert torch.allclose(ours, plain, rtol=0, atol=1e-5)
    assert plain_grads.keys() == our_grads.keys()
    for name, grad in plain_grads.items():
        scale = float(grad.abs().max())
        assert torch.allclose(our_grads[name], grad, rtol=0, atol=1e-5 * max(scale, 1e-3)), name


@pytest.mark.parametrize("pad", [pad_left, pad_right])
def test_only_tokens_that_count_reach_an_mlp(pad):
    """17 real tokens, of which 9 are read."""
    ids, mask, read = batch(pad)
    model = family("llama").eval()
    seen, last = seen_by(model), len(layers_of(model)) - 1
    hidden_states(model, ids, mask, read=read)
    assert [tokens for number, tokens in seen if number < last] == [17] * last
    assert seen[-1] == (last, 9)
    seen.clear()
    hidden_states(model, ids, mask)
    assert {tokens for _, tokens in seen} == {17}


def test_a_score_reads_one_token_a_row():
    ids, mask, _ = batch(pad_left)
    model = tiny_rm().eval()
    seen = seen_by(model)
    sequence_scores(model, ids, mask)
    assert seen[-1] == (len(layers_of(model)) - 1, len(ROWS))


def test_compiled_layers_and_checkpointed_passes_compute_all_tokens():
    ids, mask, read = batch(pad_left)
    model = family("llama")
    seen = seen_by(model)
    model.gradient_checkpointing_enable()
    hidden_states(model.train(), ids, mask, read=read)
    assert {tokens for _, tokens in seen} == {4 * 8}
    seen.clear()
    with torch.no_grad():
        hidden_states(model, ids, mask, read=read)
    assert seen[-1][1] == 9
    model = family("llama").eval()
    seen = seen_by(model)
    for layer in layers_of(model):
        layer.compile(backend="eager")
    hidden_states(model, ids, mask, read=read)
    assert {tokens for _, tokens in seen} == {4 * 8}


def test_of_a_family_that_is_not_tested_nothing_is_left_out():
    ids, mask, read = batch(pad_left)
    model = family("llama").eval()
    model.config.model_type = "other"
    seen = seen_by(model)
    hidden_states(model, ids, mask, read=read)
    assert {tokens for _, tokens in seen} == {4 * 8}


def test_after_an_error_all_tokens_count_again():
    model = family("llama").eval()
    hooks = [len(layer.mlp._forward_hooks) for layer in layers_of(model)]
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        mlps_on(model, torch.tensor([0]), torch.tensor([1])),
    ):
        raise RuntimeError("out of memory")
    assert [len(layer.mlp._forward_hooks) for layer in layers_of(model)] == hooks
    assert not any(layer.mlp._forward_pre_hooks for layer in layers_of(model))


def test_a_family_is_known_by_its_code_and_not_by_its_name():
    """A model with code of its own in its folder may call itself `llama`; FSDP2 makes subclasses."""
    other, llama = family("gpt2"), family("llama")
    assert takes_shortcuts(other)
    other.config.model_type = "llama"
    llama.__class__ = type("FSDPLlama", (type(llama),), {"__module__": "elsewhere"})
    assert not takes_shortcuts(other)
    assert takes_shortcuts(llama)
