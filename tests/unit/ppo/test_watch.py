"""Each alarm at its threshold and just short of it, once a spell, and the same after a resume."""

import pytest

from rlhf.errors import CheckpointError, TrainingError
from rlhf.ppo.watch import Watch
from rlhf.recipe.evaluation import WatchSection

HEALTHY = {
    "objective/kl": 3.0,
    "objective/scores": 0.4,
    "objective/scores_std": 1.0,
    "objective/shaped_scores": 0.5,
    "objective/shaped_scores_std": 1.0,
    "policy/entropy_avg": 2.0,
    "val/explained_variance": 0.3,
    "val/share_without_eos": 0.25,
}
NAMES = ("negative_kl", "kl", "entropy", "constant_score", "explained_variance", "missing_eos")


def watch_of(lines=None, *, critic_warmup_steps=0, newest=None, **changes):
    log = [].append if lines is None else lines.append
    section = WatchSection.model_validate(changes)
    return Watch(section, critic_warmup_steps=critic_warmup_steps, log=log, newest_checkpoint=lambda: newest)


def on(metrics):
    return {name.removeprefix("watch/") for name, value in metrics.items() if value == 1.0}


@pytest.mark.parametrize(
    ("name", "metric", "alarming", "harmless"),
    [
        ("negative_kl", "objective/kl", -0.51, -0.5),
        ("kl", "objective/kl", 50.1, 50.0),
        ("entropy", "policy/entropy_avg", 0.39, 0.4),
        ("constant_score", "objective/scores_std", 0.0, 1e-3),
        ("constant_score", "objective/shaped_scores_std", 0.0, 1e-3),  # a clip that all exceed
        ("missing_eos", "val/share_without_eos", 0.55, 0.54),
    ],
)
def test_an_alarm_begins_at_its_threshold_and_names_cause_and_knob(name, metric, alarming, harmless):
    lines = []
    watch = watch_of(lines)
    first = watch.check(1, HEALTHY)
    assert first == {f"watch/{each}": 0.0 for each in NAMES}
    assert on(watch.check(2, HEALTHY | {metric: harmless})) == set()
    assert lines == []
    assert on(watch.check(3, HEALTHY | {metric: alarming})) == {name}
    (line,) = lines
    assert line.startswith(f"warning: step 3: watch {name}: ")
    assert "Likely: " in line
    assert "ppo." in line.partition("Likely: ")[2]


def test_a_warning_is_said_once_a_spell_and_again_when_it_comes_back():
    lines = []
    watch = watch_of(lines)
    shown = []
    for step, kl in enumerate((3.0, 60.0, 70.0, 3.0, 60.0), start=1):
        shown.append(watch.check(step, HEALTHY | {"objective/kl": kl})["watch/kl"])
    assert shown == [0.0, 1.0, 1.0, 0.0, 1.0]
    assert [line.split(":")[1].strip() for line in lines] == ["step 2", "step 5"]


def test_stop_ends_the_stage_with_cause_knob_and_the_checkpoint_that_is_kept():
    watch = watch_of(kl="stop", newest="runs/a/ppo/checkpoints/step-4")
    watch.check(1, HEALTHY)
    with pytest.raises(TrainingError) as caught:
        watch.check(2, HEALTHY | {"objective/kl": 80.0})
    told = str(caught.value)
    for part in ("step 2: watch kl: the mean KL is 80", "ppo.kl.coef", "ppo.watch.kl: warn", "step-4"):
        assert part in told


def test_an_alarm_that_only_warns_is_said_although_another_one_stops():
    lines = []
    watch = watch_of(lines, kl="stop")
    watch.check(1, HEALTHY)
    with pytest.raises(TrainingError, match="watch kl"):
        watch.check(2, HEALTHY | {"objective/kl": 80.0, "objective/scores_std": 0.0})
    assert len(lines) == 1
    assert "constant_score" in lines[0]


def test_off_neither_warns_nor_counts():
    lines = []
    watch = watch_of(lines, **dict.fromkeys(NAMES, "off"))
    assert watch.check(1, HEALTHY | {"objective/kl": 1e6, "objective/scores_std": 0.0}) == {}
    assert lines == []


def test_equal_scores_are_found_in_spite_of_rounding_and_small_ones_are_not_taken_for_equal():
    watch = watch_of()
    assert on(watch.check(1, HEALTHY | {"objective/scores": 100.0, "objective/scores_std": 6e-6})) == {
        "constant_score"
    }
    assert on(watch.check(2, HEALTHY | {"objective/scores": 0.0, "objective/scores_std": 1e-7})) == set()


def test_the_critic_is_looked_at_after_its_warm_up_and_only_for_steps_in_a_row():
    watch = watch_of(critic_warmup_steps=2, explained_variance_steps=2)
    values = (-1.0, -1.0, -1.0, 0.1, -0.1, -0.2, -0.3, 0.0)
    shown = [
        watch.check(step, HEALTHY | {"val/explained_variance": value})["watch/explained_variance"]
        for step, value in enumerate(values, start=1)
    ]
    assert shown == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]


def test_a_resumed_watch_goes_on_as_the_uninterrupted_one():
    steps = [
        HEALTHY,
        HEALTHY | {"objective/kl": 60.0, "val/explained_variance": -1.0},
        HEALTHY | {"objective/kl": 60.0, "val/explained_variance": -1.0, "policy/entropy_avg": 0.3},
        HEALTHY | {"val/explained_variance": -1.0, "val/share_without_eos": 0.6},
    ]
    for cut in range(1, 4):
        whole_lines, cut_lines = [], []
        whole = watch_of(whole_lines, explained_variance_steps=3)
        expected = [whole.check(step, metrics) for step, metrics in enumerate(steps, start=1)]
        before = watch_of(cut_lines, explained_variance_steps=3)
        got = [before.check(step, metrics) for step, metrics in enumerate(steps[:cut], start=1)]
        after = watch_of(cut_lines, explained_variance_steps=3)
        after.load_state_dict(before.state_dict())
        got += [after.check(step, metrics) for step, metrics in enumerate(steps[cut:], start=cut + 1)]
        assert got == expected
        assert cut_lines == whole_lines
        assert len(whole_lines) == 4


def test_a_state_that_lacks_a_piece_is_refused():
    state = watch_of().state_dict()
    del state["critic_streak"]
    with pytest.raises(CheckpointError, match="critic_streak"):
        watch_of().load_state_dict(state)
