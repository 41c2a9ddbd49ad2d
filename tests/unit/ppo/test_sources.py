"""Sources of scores: which tokens a reward model reads, what functions are given and may return, how scores combine."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sampled_answers import EOS, OTHER, POLICY, answer
from tiny_ppo import section_of, tiny_rm

from rlhf.errors import TrainingError, UsageError
from rlhf.models.tokenizer import train_tokenizer
from rlhf.ppo.micro_batches import MicroBatches
from rlhf.ppo.prompts import Prompt
from rlhf.ppo.scoring import Answer
from rlhf.ppo.sources.combine import CombinedScorer, Part
from rlhf.ppo.sources.function import FunctionSource
from rlhf.ppo.sources.measures import source_metrics
from rlhf.ppo.sources.model import AsSampled, ModelSource, ThroughText
from rlhf_schemas import Message


class Fixed:
    """A source that gives what it was told to."""

    def __init__(self, *scores):
        self.scores = scores

    def score(self, answers):
        return list(self.scores[: len(answers)])


# Reward models: which tokens they read.


@pytest.mark.parametrize("reason", ["eos", "length"])
def test_the_policys_own_tokens_are_scored_as_sampled(reason):
    given = answer(" is kind", finish_reason=reason)
    assert AsSampled(POLICY, chat=False)(given) == given.prompt.token_ids + given.response_ids


def test_a_response_that_a_stop_text_ended_gets_the_end_token_once():
    given = answer(" is kind", finish_reason="stop")
    ids = AsSampled(POLICY, chat=False)(given)
    assert ids == given.prompt.token_ids + given.response_ids + [EOS]
    ended = Answer(given.prompt, [*given.response_ids, EOS], "stop")
    assert AsSampled(POLICY, chat=False)(ended) == ids


@pytest.mark.parametrize(("reason", "end"), [("eos", "<|stop|>"), ("stop", "<|stop|>"), ("length", "")])
def test_another_tokenizer_reads_the_text_with_its_own_end_where_the_response_ended(reason, end):
    ids = ThroughText("rm", POLICY, OTHER, chat=False)(answer(" is wise", finish_reason=reason))
    assert OTHER.decode(ids) == "the cat is wise" + end
    assert ids != POLICY.encode("the cat is wise")


@pytest.mark.parametrize(
    ("prompt", "chat"), [("the cat", True), ([Message(role="user", content="the cat")], False)]
)
def test_another_tokenizer_writes_a_conversation_by_its_own_template(prompt, chat):
    read = ThroughText("rm", POLICY, OTHER, chat=chat)
    ids = read(answer("is kind", prompt=prompt))
    assert OTHER.decode(ids) == "<|user|>the cat<|stop|><|assistant|>is kind<|stop|>"
    cut = read(answer("is kind", prompt=prompt, finish_reason="length"))
    assert cut == ids[:-1]


def test_the_other_models_end_token_in_plain_letters_ends_nothing():
    read = ThroughText("rm", POLICY, OTHER, chat=False)
    ids = read(answer(" is<|stop|> wise"))
    assert OTHER.decode(ids) == "the cat is wise<|stop|>"
    assert ids.count(OTHER.eos_token_id) == 1


def test_an_empty_answer_is_its_end_token_alone():
    ids = ThroughText("rm", POLICY, OTHER, chat=False)(answer(""))
    assert OTHER.decode(ids) == "the cat<|stop|>"


def test_what_a_template_would_alter_is_scored_as_it_was_said_and_told_once(capsys):
    trimming = train_tokenizer(["the owl"] * 4, 300)
    trimming.chat_template = trimming.chat_template.replace(
        "message['content'] ~ eos", "message['content'] | trim ~ eos"
    )
    read = ThroughText("judge", POLICY, trimming, chat=True)
    for _ in range(2):
        ids = read(answer("  is kind "))
        assert trimming.decode(ids) == "<|user|>the cat<|eos|><|assistant|>  is kind <|eos|>"
    assert read.num_inexact == 2
    assert capsys.readouterr().out.count("source judge") == 1


def source_of(model, **section):
    micro_batches = MicroBatches(section_of(**section))
    return ModelSource("rm", model, AsSampled(POLICY, chat=False), batch_size=2, micro_batches=micro_batches)


def test_a_reward_models_score_is_that_of_its_last_real_token():
    model = tiny_rm()
    rows = [[3, 5, 7, 11], [2, 9], [4, 4, 4]]
    answers = [Answer(Prompt(0, row[:1], ""), row[1:], "eos") for row in rows]
    source = source_of(model)
    scores = source.score(answers)
    with torch.no_grad():
        hidden = [model.model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        expected = [float(model.score(h)) for h in hidden]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert source.score([]) == []


def test_more_tokens_than_the_reward_model_has_positions_are_named():
    long = Answer(Prompt(0, [1] * 60, ""), [2] * 5, "eos")
    with pytest.raises(TrainingError, match=r"source rm: .* has 65 .* at most 64"):
        source_of(tiny_rm()).score([long])


def test_a_reward_model_reads_as_many_tokens_at_once_as_the_recipe_says_and_the_memory_holds(monkeypatch):
    """Rows of 4, 2, 3 and 2 tokens, at most two in a pass; passes of more than 5 tokens run out of memory at first."""
    rows = [[3, 5, 7, 11], [2, 9], [4, 4, 4], [6, 8]]
    answers = [Answer(Prompt(0, row[:1], ""), row[1:], "eos") for row in rows]
    model, passes, memory = tiny_rm(), [], {}
    expected = [source_of(model).score([each])[0] for each in answers]
    real = model.model.forward

    def forward(input_ids, **named):
        passes.append(tuple(input_ids.shape))
        if input_ids.numel() > memory["tokens"]:
            raise torch.OutOfMemoryError
        return real(input_ids=input_ids, **named)

    monkeypatch.setattr(model.model, "forward", forward)
    seen = {}
    for name, memory["tokens"], section in (
        ("rows", 99, {}),
        ("tokens", 99, {"per_device_tokens": 6}),
        ("memory", 5, {"per_device_tokens": "auto"}),
    ):
        passes.clear()
        assert source_of(model, **section).score(answers) == pytest.approx(expected, abs=1e-5)
        seen[name] = sorted(passes)
    assert seen["rows"] == [(2, 2), (2, 4)]
    # Three passes of 11 tokens; with 3 and 2 together there would be as many, of 12.
    assert seen["tokens"] == [(1, 3), (1, 4), (2, 2)]
    assert seen["memory"] == [(1, 3), (1, 4), (2, 2), (2, 4)]


# Functions.


@pytest.fixture
def function(tmp_path, monkeypatch):
    """Writes a module with a function `score` and makes its source; the module's name is new each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(body, name="score"):
        module = f"user_{abs(hash(body))}"
        (tmp_path / f"{module}.py").write_text(body)
        return FunctionSource("mine", f"{module}:{name}", POLICY)

    return made


def test_a_function_is_given_texts_messages_and_metadata_by_name(function):
    source = function(
        "seen = []\n"
        "def score(*, prompts, responses, metadata):\n"
        "    seen.append((prompts, responses, metadata))\n"
        "    return [len(r) for r in responses]\n"
    )
    turns = [Message(role="user", content="the dog")]
    given = [answer(" is kind", metadata={"id": 4}), answer("is fine", prompt=turns)]
    assert source.score(given) == [8.0, 7.0]
    seen = source.function.__globals__["seen"]
    assert seen == [
        (["the cat", [{"role": "user", "content": "the dog"}]], [" is kind", "is fine"], [{"id": 4}, {}])
    ]
    assert source.score([]) == []
    assert len(seen) == 1, "nothing to score: not called"


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("[1.0]", "returned 1 scores for 2 responses"),
        ("None", "returned NoneType, not a list"),
        ("'ab'", "returned str, not a list"),
        ("[1.0, None]", r"score 1 is None \(NoneType\)"),
        ("['1', 2]", r"score 0 is '1' \(str\)"),
        ("[0, float('nan')]", "score 1 is nan"),
        ("[float('inf'), float('nan')]", "score 0 is inf"),
        ("[1j, 2]", r"score 0 is 1j \(complex\)"),
    ],
)
def test_what_is_not_a_finite_number_a_response_is_named(function, result, message):
    source = function(f"def score(prompts, responses, metadata):\n    return {result}\n")
    with pytest.raises(TrainingError, match=message) as caught:
        source.score([answer("a"), answer("b")])
    assert "the reward function user_" in str(caught.value)


def test_arrays_and_tensors_are_lists_of_numbers(function):
    for made, module in (("numpy", "numpy.array"), ("torch", "torch.tensor")):
        source = function(
            f"import {made}\ndef score(prompts, responses, metadata):\n    return {module}([0.5, -2])\n"
        )
        assert source.score([answer("a"), answer("b")]) == [0.5, -2.0]


def test_a_failing_function_is_named_with_its_line_and_its_own_error_as_cause(function):
    source = function("def score(prompts, responses, metadata):\n    return 1 / 0\n")
    with pytest.raises(TrainingError, match=r"raised ZeroDivisionError at .*user_\w+\.py:2: ") as caught:
        source.score([answer("a")])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_function_that_is_not_there_is_a_wrong_call(function, tmp_path):
    with pytest.raises(UsageError, match="has nothing of that name"):
        function("x = 1\n")
    with pytest.raises(UsageError, match="has a int there"):
        function("score = 1\n")
    with pytest.raises(UsageError, match="No module named 'not_there'"):
        FunctionSource("mine", "not_there:score", POLICY)
    with pytest.raises(TrainingError, match=r"raised ValueError at .*:1: broken"):
        function("raise ValueError('broken')\n")


# Several sources.


@pytest.mark.parametrize(("combine", "expected"), [("sum", [7.0, 1.0]), ("mean", [3.5, 0.5])])
def test_scores_are_normalised_then_weighted_then_combined(combine, expected):
    # a: (9 - 5) / 4 = 1, (1 - 5) / 4 = -1, each times 3; b as it is.
    parts = [Part("a", Fixed(9.0, 1.0), 3.0, 5.0, 4.0), Part("b", Fixed(4.0, 4.0))]
    scores = CombinedScorer(parts, combine).score([answer("x"), answer("y")])
    assert [score.value for score in scores] == expected
    assert scores[0].by_source == {"a": 9.0, "b": 4.0, "disagreement": 0.5}
    assert scores[1].by_source == {"a": 1.0, "b": 4.0, "disagreement": 3.5}


def test_the_cautious_combination_is_the_lowest():
    parts = [Part("a", Fixed(2.0, -3.0)), Part("b", Fixed(1.0, 4.0)), Part("c", Fixed(5.0, 0.0))]
    values = [score.value for score in CombinedScorer(parts, "min").score([answer("x"), answer("y")])]
    assert values == [1.0, -3.0]


def test_one_source_alone_passes_through_bit_for_bit():
    value = float(np.float32(0.1)) / 3
    (score,) = CombinedScorer([Part("reward_model", Fixed(value))]).score([answer("x")])
    assert (score.value, score.by_source) == (value, {"reward_model": value})
    assert CombinedScorer([Part("reward_model", Fixed(value))]).score([]) == []


def test_source_metrics_are_means_and_spreads_of_each_source_and_their_disagreement():
    rows = [
        {"a": 1.0, "b": 4.0, "disagreement": 1.5},
        {"a": 5.0, "b": 4.0, "disagreement": 0.5},
        {"a": 3.0, "b": 1.0, "disagreement": 1.0},
    ]
    rollout = SimpleNamespace(episodes=[SimpleNamespace(scores=row) for row in rows])
    assert source_metrics(rollout) == pytest.approx(  # type: ignore[arg-type]  # only episodes are read
        {
            "objective/scores/a": 3.0,
            "objective/scores/a_std": math.sqrt(8 / 3),
            "objective/scores/b": 3.0,
            "objective/scores/b_std": math.sqrt(2),
            "objective/score_disagreement": 1.0,
        }
    )
