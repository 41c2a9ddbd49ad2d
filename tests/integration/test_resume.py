"""Stopped and resumed equals uninterrupted: bit for bit on the CPU, in all three stages."""

import json
import os
import shutil
import signal

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny

import rlhf.stages.signals as signals
from rlhf.errors import CheckpointError

TIMES = {
    "time",
    "eps",
    "time/rollout_seconds",
    "time/generate_seconds",
    "time/score_seconds",
    "time/update_seconds",
}
RUNTIMES = ("runtime", "samples_per_second", "steps_per_second")
CHANGES = {
    # two passes over the data, dropout's and the sampler's random numbers, a schedule that falls
    "sft": {"max_steps": 6, "save_every_steps": 2, "eval_every_steps": 2, "select_best": False},
    "reward": {"max_steps": 6, "save_every_steps": 2, "eval_every_steps": 2, "select_best": False},
    "ppo": {
        "num_steps": 4,
        "learning_rate": 0.01,
        "num_epochs": 2,
        "save_every_steps": 2,
        "eval_every_steps": 3,
        "kl": {"coef": 0.1, "target": 0.5, "horizon": 40},
    },
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """All three stages without a stop."""
    recipe = tiny(tmp_path_factory.mktemp("whole"), CHANGES)
    made = {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    return recipe, made


@pytest.fixture
def copy(uninterrupted, tmp_path):
    """The same workspace, whose stage can be run anew: its folder set aside, its artefact gone."""
    recipe, made = uninterrupted

    def prepared(stage):
        shutil.copytree(recipe.workspace, tmp_path / "workspace")
        here = recipe.model_copy(update={"workspace": str(tmp_path / "workspace")})
        shutil.rmtree(context_of(here, stage, made).folder)
        shutil.rmtree(tmp_path / "workspace" / "registry" / recipe.artefact_name(stage))
        return here

    return prepared


def stop_at(monkeypatch, step):
    """SIGTERM comes during a step: after so many looks at the flag it is set, as the handler sets it."""
    looks = []

    def requested():
        looks.append(1)
        return len(looks) >= step

    for module in ("rlhf.stages.hf_trainer", "rlhf.stages.ppo_checkpoints"):
        monkeypatch.setattr(f"{module}.stop_requested", requested)


def metrics_of(recipe, stage, made, *, drop=()):
    path = context_of(recipe, stage, made).folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {name: value for name, value in line.items() if name not in TIMES and not name.endswith(drop)}
        for line in lines
    ]


def assert_same_weights(one, other):
    names = sorted(path.relative_to(one.path) for path in one.path.rglob("*.safetensors"))
    assert names
    for name in names:
        first, second = load_file(one.path / name), load_file(other.path / name)
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert value.equal(second[key]), f"{name}: {key}"


@pytest.mark.parametrize("step", [2, 3])
def test_line_29_ppo_stopped_and_resumed_equals_uninterrupted(uninterrupted, copy, monkeypatch, step):
    """At a checkpoint that was due, and at one that the signal asked for."""
    recipe, made = uninterrupted
    here = copy("ppo")
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert run_stage_here(here, "ppo", made) is None
    context = context_of(here, "ppo", made)
    assert context.checkpoints.newest().step == step
    assert not (context.folder / "published.json").exists()
    resumed = run_stage_here(here, "ppo", made)
    assert resumed.manifest.metrics == made["ppo"].manifest.metrics
    assert_same_weights(made["ppo"], resumed)
    lines = metrics_of(recipe, "ppo", made)
    assert len(lines) == 4 + 3, "four steps; evaluations at 0, 3 and 4"
    assert metrics_of(here, "ppo", made) == lines
    assert len({line["objective/kl_coef"] for line in lines if "objective/kl_coef" in line}) == 4
    for number in range(1, 5):
        name = f"rollouts/step-{number}-rank-0.parquet"
        whole, again = (pq.read_table(context_of(r, "ppo", made).folder / name) for r in (recipe, here))
        assert whole.equals(again), name


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_sft_and_reward(uninterrupted, copy, monkeypatch, stage):
    recipe, made = uninterrupted
    here = copy(stage)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert run_stage_here(here, stage, made) is None
    assert context_of(here, stage, made).checkpoints.newest().step == 3
    resumed = run_stage_here(here, stage, made)
    assert_same_weights(made[stage], resumed)
    lines = [metrics_of(r, stage, made, drop=RUNTIMES) for r in (recipe, here)]
    assert [line["step"] for line in lines[0] if "eval_loss" in line] == (
        [2, 4, 6, 6] if stage == "sft" else [2, 4, 6]
    )
    assert any("train_loss" in line for line in lines[0])
    assert lines[0] == lines[1]


def test_rollouts_and_tables_that_the_checkpoint_has_not_seen_are_forgotten(uninterrupted, copy, monkeypatch):
    """Such as those of a step that another number of processes sampled before the kill."""
    _, made = uninterrupted
    here = copy("ppo")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert run_stage_here(here, "ppo", made) is None
    folder = context_of(here, "ppo", made).folder
    stale = [folder / "rollouts" / "step-3-rank-1.parquet", folder / "evaluations" / "step-9.jsonl"]
    kept = folder / "rollouts" / "step-2-rank-0.parquet"
    before = kept.read_bytes()
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"of a run that is gone")
    assert run_stage_here(here, "ppo", made) is not None
    assert not any(path.exists() for path in stale)
    assert kept.read_bytes() == before


def test_sigterm_sets_the_flag(monkeypatch):
    monkeypatch.setattr(signals, "_stop", type(signals._stop)())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        signals.listen_for_stop()
        assert not signals.stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop_requested()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_checkpoint_of_another_strategy_is_refused_by_ppo(uninterrupted, copy, monkeypatch):
    _, made = uninterrupted
    here = copy("ppo")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        assert run_stage_here(here, "ppo", made) is None
    folder = context_of(here, "ppo", made).checkpoints.newest().path / "pytorch_model"
    folder.mkdir()
    (folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()  # as DeepSpeed leaves one for each process
    with pytest.raises(CheckpointError, match=r"saved with launch\.strategy: zero1 or zero2"):
        run_stage_here(here, "ppo", made)
