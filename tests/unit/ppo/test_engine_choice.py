"""Which rollout engine a run takes, and what it says of it."""

import pytest
import torch
from test_graph_engine import adapted
from tiny_ppo import tiny_lm

from rlhf.errors import UsageError
from rlhf.ppo.engines.choice import choose_engine, graph_obstacle
from rlhf.ppo.engines.graph import GraphEngine
from rlhf.ppo.engines.hf import HFEngine
from rlhf.recipe.ppo import SamplingSection


def chosen(policy, *, is_sharded=False, on_gpu=False, stop_texts=None, start_vllm=None, **sampling):
    section = SamplingSection.model_validate({"max_new_tokens": 4} | sampling)
    return choose_engine(
        section,
        policy,
        batch_size=6,
        max_length=30,
        dtype=torch.float32,
        stop_texts=stop_texts,
        is_sharded=is_sharded,
        on_gpu=on_gpu,
        start_vllm=start_vllm,
    )


def test_the_choice_says_what_it_took_and_why():
    engine, line = chosen(tiny_lm(), engine="graph")
    assert isinstance(engine, GraphEngine)
    assert line == "rollout engine: graph, 6 slots, float32"
    for sampling in ({}, {"engine": "hf"}):
        engine, line = chosen(tiny_lm(), **sampling)
        assert isinstance(engine, HFEngine)
        assert engine.batch_size == 6
        assert line.startswith("rollout engine: hf")


def test_where_weights_are_shared_out_graph_is_taken_by_name_alone_and_decodes_on_a_copy():
    engine, line = chosen(tiny_lm(), is_sharded=True, on_gpu=True)
    assert isinstance(engine, HFEngine)
    assert "copy of the whole policy" in line
    engine, line = chosen(tiny_lm(), is_sharded=True, engine="graph")
    assert isinstance(engine, GraphEngine)
    assert engine.copied
    assert "copy of the policy" in line
    engine, _ = chosen(tiny_lm(), engine="graph")
    assert not engine.copied


def test_either_engine_gets_the_stop_texts():
    texts = object()
    for name in ("hf", "graph"):
        assert chosen(tiny_lm(), engine=name, stop=["x"], stop_texts=texts)[0].stop_texts is texts


@pytest.mark.parametrize("cuts", [{}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_by_itself_it_takes_graph_on_a_gpu_where_it_can(cuts):
    engine, line = chosen(tiny_lm(), on_gpu=True, **cuts)
    assert isinstance(engine, GraphEngine)
    assert line.startswith("rollout engine: graph")


def rope_by_length():
    model = tiny_lm()
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    return model


def of_another_type():
    model = tiny_lm()
    model.config.model_type = "mamba"
    return model


@pytest.mark.parametrize(
    ("policy", "settings", "words"),
    [
        (rope_by_length, {}, "dynamic"),
        (of_another_type, {}, "mamba"),
    ],
)
def test_where_it_cannot_auto_takes_hf_and_says_why_and_its_name_is_refused(policy, settings, words):
    engine, line = chosen(policy(), **settings)
    assert isinstance(engine, HFEngine)
    assert words in line
    with pytest.raises(UsageError, match=words):
        chosen(policy(), engine="graph", **settings)


def test_vllm_is_started_where_it_is_named_and_never_by_itself():
    started = []

    def start():
        started.append(HFEngine())
        return started[-1]

    for engine in ("auto", "hf", "graph"):
        chosen(tiny_lm(), on_gpu=True, start_vllm=start, engine=engine)
    assert not started
    engine, line = chosen(adapted(), on_gpu=True, start_vllm=start, engine="vllm")
    assert started == [engine]
    assert line == "rollout engine: vllm, colocate, 6 slots"


@pytest.mark.parametrize(
    ("where", "words"),
    [({"on_gpu": False}, "is for GPUs"), ({"on_gpu": True, "is_sharded": True}, "holds a part")],
)
def test_where_vllm_cannot_be_given_weights_it_is_refused_before_it_starts(where, words):
    with pytest.raises(UsageError, match=rf"{words}(.|\n)*engine: hf, or auto"):
        chosen(tiny_lm(), engine="vllm", **where)


def test_adapters_are_no_obstacle():
    assert graph_obstacle(adapted()) is None
