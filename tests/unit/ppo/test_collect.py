"""What the collector makes of a batch: scores, reasons, metadata, bootstrap values, greedy answers."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_ppo import KINDS, PROMPTS, STOPS, TinyPPO, section_of

from rlhf.ppo.episodes import collate
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.scoring import Score
from rlhf_schemas import PromptRecord

CPU = torch.device("cpu")


class Counting:
    """Score: ten times the prompt's id plus the response's length; each part is a source."""

    def __init__(self):
        self.calls = []

    def score(self, answers):
        self.calls.append(answers)
        parts = [(10.0 * answer.prompt.prompt_id, float(len(answer.response_ids))) for answer in answers]
        return [Score(a + b, {"prompt": a, "length": b}) for a, b in parts]


def test_the_scorer_is_asked_once_and_its_scores_reach_their_responses():
    ppo = TinyPPO(section_of(), rollout_batch_size=3)
    ppo.collector.scorer = scorer = Counting()
    rollout = ppo.collect()
    assert [len(answers) for answers in scorer.calls] == [8]
    assert [episode.prompt_id for episode in rollout.episodes] == list(range(8))
    for row, episode in enumerate(rollout.episodes):
        length = len(episode.response_ids)
        assert episode.scores == {"prompt": 10.0 * row, "length": length}
        assert episode.score == rollout.scores[row] == 10 * row + length
    asked = {answer.prompt.prompt_id: answer for answer in scorer.calls[0]}
    for episode in rollout.episodes:
        answer = asked[episode.prompt_id]
        assert answer.prompt is PROMPTS[episode.prompt_id]
        assert (answer.response_ids, answer.finish_reason) == (episode.response_ids, episode.finish_reason)


def test_a_cpu_collects_in_inference_mode_and_nothing_of_it_is_left():
    ppo, modes = TinyPPO(section_of()), []
    ppo.collector.scorer = scorer = Counting()
    ppo.policy.model.register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    rollout = ppo.collect()
    assert scorer.calls
    assert set(modes) == {True}
    left = [value for value in vars(rollout).values() if isinstance(value, torch.Tensor)]
    left += [*ppo.model.parameters(), *ppo.model.buffers()]
    assert not any(tensor.is_inference() for tensor in left)


def test_a_scorer_that_gives_too_few_scores_is_found():
    ppo = TinyPPO(section_of())
    ppo.collector.scorer = type(
        "Short", (), {"score": lambda _, answers: [Score(1.0)] * (len(answers) - 1)}
    )()
    with pytest.raises(ValueError, match="shorter"):
        ppo.collect()


def test_line_14_finish_reasons_say_whether_a_stop_token_or_the_limit_ended_a_response():
    rollout = TinyPPO(section_of()).collect()
    expected = ["eos" if episode.response_ids[-1] in STOPS else "length" for episode in rollout.episodes]
    assert set(expected) == {"eos", "length"}
    assert [episode.finish_reason for episode in rollout.episodes] == expected
    assert rollout.ended.tolist() == [reason == "eos" for reason in expected]


def test_metadata_of_the_prompts_record_goes_into_the_episode():
    record = PromptRecord(prompt="x", metadata={"topic": "films", "year": 1999})
    prompts = [Prompt(0, [3, 4], "x", record), Prompt(1, [5], "y")]
    rollout = TinyPPO(section_of()).collect(prompts=prompts)
    assert [episode.metadata for episode in rollout.episodes] == [{"topic": "films", "year": 1999}, {}]


@pytest.mark.parametrize("kind", KINDS)
def test_bootstrap_values_are_the_critics_at_the_last_token_of_responses_that_were_cut(kind):
    ppo = TinyPPO(section_of(bootstrap_truncated=True, per_device_batch_size=2), kind=kind)
    rollout = ppo.collect()
    trunk = {"llama": "model", "gpt2": "transformer", "gpt_neox": "gpt_neox"}[kind]
    expected = []
    for episode in rollout.episodes:
        ids = torch.tensor([episode.prompt_ids + episode.response_ids])
        with torch.no_grad():
            hidden = getattr(ppo.critic, trunk)(input_ids=ids).last_hidden_state
            values = ppo.critic.score(hidden)[0, :, 0]
        # before the last token as `values` has it, at the last token as the bootstrap
        assert values[-2] == pytest.approx(float(episode.values[-1]), abs=1e-5)
        expected.append(0.0 if episode.response_ids[-1] in STOPS else float(values[-1]))
    assert 0 < sum(value == 0 for value in expected) < 8
    assert rollout.bootstrap_values.tolist() == pytest.approx(expected, abs=1e-5)


def test_without_the_knob_nothing_is_bootstrapped():
    rollout = TinyPPO(section_of()).collect()
    assert not rollout.ended.all()
    assert not rollout.bootstrap_values.any()


def test_greedy_answers_are_the_likeliest_tokens_with_log_probabilities_at_the_sampling_temperature():
    ppo = TinyPPO(section_of(sampling={"max_new_tokens": 7, "temperature": 0.7, "top_p": 0.5}))
    rollout = ppo.collect(temperature=0)
    for episode in rollout.episodes:
        assert episode.support is None
        start, length = len(episode.prompt_ids), len(episode.response_ids)
        ids = torch.tensor([episode.prompt_ids + episode.response_ids])
        for model, logprobs in (
            (ppo.policy, episode.logprobs),
            (ppo.collector.reference, episode.ref_logprobs),
        ):
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, start - 1 : -1].double()
            if model is ppo.policy:
                assert logits.argmax(dim=-1).tolist() == episode.response_ids
            expected = torch.log_softmax(logits / 0.7, dim=-1)[range(length), episode.response_ids]
            assert logprobs.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_rollout_is_made_of_its_episodes_alone(top_p):
    sampling = {"max_new_tokens": 7, "temperature": 0.7, "top_p": top_p}
    rollout = TinyPPO(section_of(bootstrap_truncated=True, sampling=sampling)).collect()
    again = collate(list(rollout.episodes))
    for field in dataclasses.fields(rollout):
        one, other = getattr(rollout, field.name), getattr(again, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    one, other = (r.micro_batch([5, 1], CPU) for r in (rollout, again))
    assert ("support" in one) == (top_p < 1)
    assert {name: value.tolist() for name, value in one.items()} == {
        name: value.tolist() for name, value in other.items()
    }


def test_the_numbers_of_an_episode_do_not_depend_on_how_many_are_sampled_at_once():
    sampling = {"max_new_tokens": 7, "temperature": 0.7, "top_p": 0.7}
    section = section_of(bootstrap_truncated=True, sampling=sampling)
    together, alone = (TinyPPO(section, rollout_batch_size=size).collect() for size in (8, 1))
    for one, other in zip(together.episodes, alone.episodes, strict=True):
        assert one.response_ids == other.response_ids
        assert [ids.tolist() for ids in one.support] == [ids.tolist() for ids in other.support]
        for name in ("logprobs", "ref_logprobs", "values", "engine_logprobs", "score", "bootstrap_value"):
            assert np.allclose(getattr(one, name), getattr(other, name), atol=1e-5), name
