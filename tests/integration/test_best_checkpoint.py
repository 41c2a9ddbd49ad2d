"""PPO that selects its best checkpoint, is judged by a second judge and stops early: whole, and stopped and resumed."""

import json
import shutil

import pytest
from stage_runs import context_of, run_stage_here, tiny
from test_resume import assert_same_weights, metrics_of, stop_at

from rlhf.errors import CheckpointError, UsageError

EVALUATION = {
    "samples_per_prompt": 2,
    "num_shown": 3,
    "select_best": "eval/gold_scores",
    "patience": 2,
    "best_of_n": 4,
    "gold": {"name": "letters", "function": "test_best_checkpoint:letters"},
}
PPO = {
    "num_steps": 8,
    "learning_rate": 0.03,
    "eval_every_steps": 1,
    "save_every_steps": 3,
    "keep_checkpoints": 1,
    "ema_decay": 0.3,
    "evaluation": EVALUATION,
}


def letters(prompts, responses, metadata):
    """A gold judge with an opinion that the reward model does not share."""
    return [float(sum(letter in "aeiou" for letter in response)) for response in responses]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All three stages without a stop."""
    recipe = tiny(tmp_path_factory.mktemp("best"), {"ppo": PPO})
    made = {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    return recipe, made


@pytest.fixture
def anew(whole, tmp_path):
    """The same SFT and reward model, and a PPO stage that has not begun; some of its evaluation changed."""
    recipe, made = whole

    def prepared(**evaluation):
        shutil.copytree(recipe.workspace, tmp_path / "workspace")
        here = recipe.model_copy(update={"workspace": str(tmp_path / "workspace")})
        section = here.ppo.model_dump(mode="json") | {"evaluation": EVALUATION | evaluation}
        here = here.model_copy(update={"ppo": type(here.ppo).model_validate(section)})
        shutil.rmtree(context_of(here, "ppo", made).folder)
        shutil.rmtree(tmp_path / "workspace" / "registry" / recipe.artefact_name("ppo"))
        return here

    return prepared


def evaluations(recipe, made):
    return [line for line in metrics_of(recipe, "ppo", made) if "eval/scores" in line]


def test_the_best_evaluation_is_published_and_the_run_ends_when_patience_does(whole):
    recipe, made = whole
    lines = evaluations(recipe, made)
    best = max(lines, key=lambda line: line["eval/gold_scores"])
    assert [line["step"] for line in lines] == list(range(best["step"] + 3))
    assert 0 < best["step"] < 6
    manifest = made["ppo"].manifest.metrics
    measured = {name: value for name, value in best.items() if name.startswith("eval/")}
    assert {name: manifest[name] for name in measured} == measured
    assert {name.replace("sft_", "", 1) for name in manifest if "/sft_" in name} < set(measured)
    context = context_of(recipe, "ppo", made)
    steps = [checkpoint.step for checkpoint in context.checkpoints.complete()]
    assert steps == [best["step"], lines[-1]["step"]]


def test_each_evaluation_leaves_a_table_and_the_best_ones_answers_are_the_samples(whole):
    recipe, made = whole
    lines = evaluations(recipe, made)
    best = max(lines, key=lambda line: line["eval/gold_scores"])["step"]
    folder = context_of(recipe, "ppo", made).folder
    assert len(list((folder / "evaluations").iterdir())) == len(lines)
    table = (folder / "evaluations" / f"step-{best}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in table.splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert set(row) == {"prompt", "sft", "greedy", "sampled"}
        assert len(row["sampled"]) == 2
        for answer in [row["sft"], *row["sampled"]]:
            assert answer["gold_score"] == letters([], [answer["answer"]], [])[0]
    samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    assert [sample["ppo"] for sample in samples] == [row["sampled"][0]["answer"] for row in rows]
    assert [sample["sft_score"] for sample in samples] == [row["sft"]["score"] for row in rows]


@pytest.mark.parametrize("after", [-1, 1])
def test_stopped_before_or_after_the_best_step_it_decides_alike(whole, anew, monkeypatch, after):
    recipe, made = whole
    lines = evaluations(recipe, made)
    best = max(lines, key=lambda line: line["eval/gold_scores"])["step"]
    here = anew()
    with monkeypatch.context() as patch:
        # Step 0, the best so far then, is saved too, and so is a look at the flag.
        stop_at(patch, best + after + 1)
        assert run_stage_here(here, "ppo", made) is None
    assert context_of(here, "ppo", made).checkpoints.newest().step == best + after
    resumed = run_stage_here(here, "ppo", made)
    assert metrics_of(here, "ppo", made) == metrics_of(recipe, "ppo", made)
    assert resumed.manifest.metrics == made["ppo"].manifest.metrics
    assert_same_weights(made["ppo"], resumed)


def test_a_best_checkpoint_that_is_gone_is_missed_at_once(whole, anew, monkeypatch):
    recipe, made = whole
    best = max(evaluations(recipe, made), key=lambda line: line["eval/gold_scores"])["step"]
    here = anew()
    with monkeypatch.context() as patch:
        stop_at(patch, best + 2)
        assert run_stage_here(here, "ppo", made) is None
    shutil.rmtree(context_of(here, "ppo", made).checkpoints.folder / f"step-{best}")
    with pytest.raises(CheckpointError, match=f"step {best}, which is the best so far"):
        run_stage_here(here, "ppo", made)


def test_an_unknown_metric_stops_at_the_first_evaluation(whole, anew):
    _, made = whole
    with pytest.raises(UsageError, match="eval/score is not measured\n  One of: eval/scores, "):
        run_stage_here(anew(select_best="eval/score"), "ppo", made)


def test_without_a_table_there_are_no_samples(whole, anew):
    _, made = whole
    here = anew(num_shown=0, patience=1)
    assert run_stage_here(here, "ppo", made) is not None
    assert not (context_of(here, "ppo", made).folder / "samples.json").exists()
