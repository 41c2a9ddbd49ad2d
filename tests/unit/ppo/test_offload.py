"""Frozen models that wait on the CPU are moved for their turn alone and come back unchanged; `meta` stands in for a GPU."""

import pytest
import torch
from tiny_ppo import PROMPTS, TinyPPO, section_of, tiny_rm
from torch import nn

from rlhf.models.offload import on_device
from rlhf.ppo.micro_batches import MicroBatches
from rlhf.ppo.noise import ROLLOUT_STREAM
from rlhf.ppo.scoring import Answer
from rlhf.ppo.sources.model import ModelSource

META = torch.device("meta")


class Watched:
    """Stands for `on_device`; writes down who came and went."""

    def __init__(self, names, log):
        self.names, self.log = names, log

    def __call__(self, model, device):
        return self.visit(self.names[id(model)], device)

    def visit(self, name, device):
        log = self.log

        class Visit:
            def __enter__(self):
                log.append(f"{name} to {device}")

            def __exit__(self, *_):
                log.append(f"{name} back")

        return Visit()


def test_weights_and_buffers_are_on_the_device_within_and_the_same_memory_after():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).requires_grad_(False)
    model[2].weight = model[0].weight
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    with on_device(model, META):
        assert {value.device for value in model.state_dict().values()} == {META}
        assert model[2].weight is model[0].weight
        assert not any(parameter.requires_grad for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])
    assert model[2].weight is model[0].weight


def test_they_come_back_after_an_error_too():
    model = nn.Linear(3, 4)
    with pytest.raises(KeyError), on_device(model, META):
        raise KeyError("asked wrongly")
    assert model.weight.device == torch.device("cpu")


def test_nothing_moves_where_the_model_is_there_already():
    model = nn.Linear(3, 4)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    with on_device(model, torch.device("cpu")):
        assert [parameter.data_ptr() for parameter in model.parameters()] == places


def test_a_reward_model_scores_on_its_device(monkeypatch):
    model = tiny_rm()
    source = ModelSource(
        "judge",
        model,
        lambda answer: answer.response_ids,
        batch_size=2,
        micro_batches=MicroBatches(section_of()),
        device=META,
    )

    def scores(model, ids, mask, width):
        return torch.tensor([float(model.model.embed_tokens.weight.device == ids.device == META)])

    monkeypatch.setattr("rlhf.models.forward.sequence_scores", scores)
    assert source.score([Answer(PROMPTS[0], [3, 4, 5], "eos")]) == [1.0]
    assert model.score.weight.device == torch.device("cpu")


def test_the_reference_is_there_to_measure_and_neither_while_sampling_nor_for_the_scores(monkeypatch):
    log = []
    ppo = TinyPPO(section_of())
    score, generate = ppo.collector.scorer.score, ppo.collector.engine.generate
    names = {id(ppo.collector.reference): "reference"}
    monkeypatch.setattr("rlhf.ppo.rollout.on_device", Watched(names, log))
    monkeypatch.setattr(ppo.collector.scorer, "score", lambda answers: log.append("score") or score(answers))
    monkeypatch.setattr(
        ppo.collector.engine, "generate", lambda *a, **k: log.append("sample") or generate(*a, **k)
    )
    ppo.collector.collect(ppo.model, [(prompt, 0) for prompt in PROMPTS], 0, stream=ROLLOUT_STREAM)
    assert log == ["sample", "reference to cpu", "reference back", "score"]
