"""Which changes unfinished work can go on with: not those that its checkpoint's state or numbers contradict."""

from collections.abc import Callable
from typing import Any

import pytest
from fake_stages import FakeStages

from rlhf.errors import StageError, UsageError
from rlhf.pipeline.changed import differences
from rlhf.stages.inputs import ModelInput, StageInputs

Run = Callable[..., str]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.prompts.train=prompts.eval.jsonl", "data prompts.train  (needs"),
        ("data.prompts.eval=null", "data prompts.eval  (needs"),
        ("ppo.weight_decay=0.1", "ppo.weight_decay 0.0 -> 0.1  (needs"),
        ("ppo.adam_eps=0.1", "ppo.adam_eps 1e-05 -> 0.1  (needs"),
        ("ppo.seed=3", "seed 0 -> 3  (needs a new start: the steps so far were sampled with the old one)"),
        ("ppo.reward_model=registry:tiny-reward@1", 'null -> "registry:tiny-reward@1"  (needs'),
        ("ppo.sampling.max_new_tokens=8", "ppo.sampling.max_new_tokens 12 -> 8  (needs"),
        ("ppo.sampling.temperature=0.9", "ppo.sampling.temperature 1.0 -> 0.9  (needs"),
        ("ppo.evaluation.samples_per_prompt=2", "ppo.evaluation.samples_per_prompt 1 -> 2  (needs"),
        ("ppo.evaluation.best_of_n=4", "ppo.evaluation.best_of_n 0 -> 4  (needs"),
        ("ppo.evaluation.select_best=eval/scores", 'select_best null -> "eval/scores"  (needs'),
        ("ppo.ema_decay=0.9", "ppo.ema_decay null -> 0.9  (needs"),
        ("ppo.shaping.normalize=running", 'normalize "reference" -> "running"  (needs'),
        ("ppo.kl.target=6.0", "ppo.kl.target null -> 6.0  (needs"),
        ("ppo.num_steps=1", "ppo.num_steps 2 -> 1  (needs a new start: the newest checkpoint is at step 5"),
        ("ppo.num_steps=5", "ppo.num_steps 2 -> 5  (needs"),
    ],
)
def test_what_a_checkpoint_cannot_go_on_with_is_not_adopted(
    interrupted: Run, stages: FakeStages, override: str, told: str
) -> None:
    for adopt_changes in (False, True):
        with pytest.raises(UsageError) as caught:
            interrupted(override, "ppo.vf_coef=0.2", adopt_changes=adopt_changes)
        text = str(caught.value)
        assert told in text
        assert "ppo.vf_coef 0.1 -> 0.2\n" in text
        assert "Put the old values back" in text
        assert "go on from step" not in text
        assert "--stage ppo --fresh" in text
    assert stages.ran == []


@pytest.mark.parametrize(
    "override",
    [
        "ppo.num_steps=6",
        "ppo.critic_learning_rate=0.01",
        "ppo.schedule=cosine",
        "ppo.cliprange=0.1",
        "ppo.num_epochs=2",
        "ppo.num_minibatches=4",
        "ppo.entropy_coef=0.01",
        "ppo.target_kl=0.1",
        "ppo.dual_clip=3.0",
        "ppo.kl.coef=0.2",
        "ppo.save_every_steps=2",
        "ppo.eval_every_steps=1",
        "ppo.evaluation.num_shown=1",
    ],
)
def test_what_every_step_reads_anew_is_adopted(interrupted: Run, stages: FakeStages, override: str) -> None:
    assert "ppo     resumed: goes on from step 5 with changes: " in interrupted(override, adopt_changes=True)
    assert stages.ran == ["ppo"]


def test_an_adapted_kl_coefficient_is_the_checkpoints(run: Run, stages: FakeStages) -> None:
    stages.fail_in = "ppo"
    with pytest.raises(StageError):
        run("ppo.kl.target=6.0")
    for override, told in (
        ("ppo.kl.target=6.0", "ppo.kl.coef 0.05 -> 0.2"),
        ("ppo.kl.target=null", "6.0 -> null"),
    ):
        with pytest.raises(UsageError) as caught:
            run(override, "ppo.kl.coef=0.2", adopt_changes=True)
        assert f"{told}  (needs a new start: " in str(caught.value)
        assert "ppo.kl.coef 0.05 -> 0.2  (needs a new start: with ppo.kl.target" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "adoptable"),
    [
        ("code.length", "1" * 64, "2" * 64, False),
        ("ppo.rewards", [], [{"name": "own", "model": "recipe"}], False),
        ("ppo.combine", "sum", "mean", False),
        ("ppo.ema_decay", 0.9, None, False),
        ("ppo.evaluation.gold.url", "http://a", "http://b", False),
        ("ppo.evaluation.patience", None, 2, True),
        ("ppo.evaluation.kl_budget", 4.0, None, True),
        ("ppo.kl.horizon", 10, 20, True),
        ("ppo.sampling_of_another_kind", 1, 2, True),
    ],
)
def test_which_settings_belong_to_a_checkpoints_numbers(
    name: str, old: Any, new: Any, adoptable: bool
) -> None:
    before, after = (
        StageInputs(stage="ppo", policy=None, reward_model=None, data={}, settings={name: value}, digest="x")
        for value in (old, new)
    )
    assert [each.adoptable for each in differences(before, after)] == [adoptable]


@pytest.mark.parametrize(
    ("override", "adoptable"),
    [("sft.max_steps=6", True), ("sft.learning_rate=0.02", False), ("seed=4", False)],
)
def test_trainers_checkpoints_go_on_with_what_they_do_not_hold(
    run: Run, stages: FakeStages, override: str, adoptable: bool
) -> None:
    stages.fail_in = "sft"
    with pytest.raises(StageError):
        run()
    stages.fail_in = None
    with pytest.raises(UsageError) as caught:
        run(override)
    assert ("--adopt-changes" in str(caught.value)) is adoptable
    if adoptable:
        assert "sft     resumed: goes on from step 5" in run(override, adopt_changes=True)
    else:
        with pytest.raises(UsageError):
            run(override, adopt_changes=True)


def test_differences_name_what_came_what_went_and_which_models() -> None:
    before = StageInputs(
        stage="ppo",
        policy=ModelInput(reference="a@1", digest="1"),
        reward_model=ModelInput(path="rm"),
        data={"prompts.train": "1", "prompts.eval": "2"},
        settings={"ppo.old": 1, "ppo.same": 2, "model.attn_implementation": None, "model.lora.r": 8},
        digest="x",
    )
    after = before.model_copy(
        update={
            "reward_model": None,
            "reward_models": {"gold": ModelInput(reference="g@3", digest="3")},
            "data": {"prompts.train": "1"},
            "settings": {
                "ppo.new": None,
                "ppo.same": 2,
                "model.attn_implementation": "eager",
                "model.lora.r": 16,
            },
        }
    )
    assert [(each.text, each.adoptable) for each in differences(before, after)] == [
        ('model.attn_implementation null -> "eager"', True),
        ("model.lora.r 8 -> 16", False),
        ("ppo.new absent -> null", True),
        ("ppo.old 1 -> absent", True),
        ("reward_model rm -> none", False),
        ("gold none -> g@3", False),
        ("data prompts.eval", False),
    ]
    assert differences(before, before) == []
