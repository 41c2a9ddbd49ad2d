"""`rlhf run` as people call it: real stages in real processes, finished, reused, killed, damaged."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import TinyRecipe, finish

from rlhf.checkpoint import Checkpoints
from rlhf.metrics import read_metrics
from rlhf.registry import ManifestDraft, Registry

LONG = {
    "sft": ("sft.max_steps=200", "sft.save_every_steps=10", "sft.eval_every_steps=10"),
    "reward": ("reward.max_steps=120", "reward.save_every_steps=10", "reward.eval_every_steps=10"),
    "ppo": ("ppo.num_steps=60", "ppo.save_every_steps=3", "ppo.eval_every_steps=30"),
}
"""Overrides that keep a stage busy long enough to be killed a few times."""


def run_arguments(stage: str) -> list[str]:
    return [
        "run",
        "recipe.yaml",
        "--stage",
        stage,
        *(word for each in LONG[stage] for word in ("--set", each)),
    ]


def newest_step(recipe: TinyRecipe, stage: str) -> int:
    newest = Checkpoints(recipe.run / stage / "checkpoints").newest()
    return 0 if newest is None else newest.step


def stage_process(pipeline: "subprocess.Popen[str]") -> int:
    (child,) = Path(f"/proc/{pipeline.pid}/task/{pipeline.pid}/children").read_text().split()
    return int(child)


def wait_for_checkpoint(
    recipe: TinyRecipe, stage: str, pipeline: "subprocess.Popen[str]", after: int
) -> None:
    deadline = time.monotonic() + 120
    folder = recipe.run / stage / "checkpoints"
    while not any(int(p.name[5:]) > after for p in folder.glob("step-*") if (p / "COMPLETE.json").exists()):
        assert time.monotonic() < deadline, "no checkpoint came"
        if pipeline.poll() is not None:
            pytest.fail(f"the run ended before it could be stopped: {finish(pipeline)}")
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether a process ends within five seconds; a zombie has ended."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def stop_after_checkpoint(recipe: TinyRecipe, stage: str, how: str, after: int) -> tuple[int, str]:
    """Start the stage, wait for a checkpoint later than `after`, stop it; exit code and output of the pipeline."""
    pipeline = recipe.start(*run_arguments(stage))
    wait_for_checkpoint(recipe, stage, pipeline, after)
    child = stage_process(pipeline)
    if how == "locked":
        # on a busy machine the stage would be over before the second call has an answer
        os.kill(child, signal.SIGSTOP)
        code, output = recipe.call(*run_arguments(stage))
        assert (code, f"in use by process {pipeline.pid} on" in output) == (1, True), output
        pipeline.send_signal(signal.SIGTERM)
        os.kill(child, signal.SIGCONT)
    elif how == "interrupt":
        pipeline.send_signal(signal.SIGINT)
    elif how == "stage":
        os.kill(child, signal.SIGKILL)
    elif how == "pipeline":
        pipeline.kill()
    else:
        os.killpg(child, signal.SIGKILL)
        pipeline.kill()
    result = finish(pipeline)
    assert is_gone(child), "the stage outlived its pipeline"
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "ways"),
    [
        ("sft", ("stage", "group", "pipeline", "locked", "interrupt")),
        ("reward", ("stage", "group", "pipeline")),
        ("ppo", ("stage", "group", "pipeline")),
    ],
)
def test_a_stopped_stage_goes_on_from_its_newest_checkpoint(
    copied_run: TinyRecipe, stage: str, ways: tuple[str, ...]
) -> None:
    shutil.rmtree(copied_run.run / stage)
    step = 0
    for how in ways:
        code, output = stop_after_checkpoint(copied_run, stage, how, step)
        assert code == {"stage": 1, "locked": 75, "interrupt": 130}.get(how, -signal.SIGKILL), output
        if step:
            assert f"{stage:<7} resumed: it was interrupted; goes on from step {step}" in output
        if how == "stage":
            assert f"the {stage} stage was killed by SIGKILL" in output
        if how in ("stage", "locked", "interrupt"):
            assert f"Go on with: rlhf run recipe.yaml --set {LONG[stage][0]}" in output
        assert newest_step(copied_run, stage) > step
        step = newest_step(copied_run, stage)
    code, output = copied_run.call(*run_arguments(stage))
    assert code == 0, output
    assert f"goes on from step {step}" in output
    assert f"published tiny-{stage}@2" in output
    last = int(LONG[stage][0].split("=")[1])
    steps = [line["step"] for line in read_metrics(copied_run.run / stage / "metrics.jsonl")]
    assert (steps == sorted(steps), steps[-1]) == (True, last)
    log = (copied_run.run / stage / "log.txt").read_text()
    assert "does not exist anymore" not in log


@pytest.mark.slow
def test_a_stage_killed_after_its_last_step_publishes_what_it_had(copied_run: TinyRecipe) -> None:
    """As though the kill came between the last checkpoint and publishing: those weights, not a step further."""
    before = published_again_by(copied_run, "reward", version=1)
    assert before[-1]["step"] == 4


@pytest.mark.slow
def test_a_stage_killed_after_it_lost_patience_publishes_what_it_had(copied_run: TinyRecipe) -> None:
    """Steps too small to improve anything: it stops at the second evaluation, and stays stopped when it resumes."""
    overrides = [
        word
        for each in ("learning_rate=1e-12", "patience=1", "max_steps=40")
        for word in ("--set", f"sft.{each}")
    ]
    code, output = copied_run.call("run", "recipe.yaml", "--stage", "sft", *overrides)
    assert code == 0, output
    before = published_again_by(copied_run, "sft", *overrides, version=2)
    assert before[-1]["step"] == 4


def without_clocks(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The end of the training is written anew, with the second process's own times."""
    clocks = ("time", "_runtime", "_per_second")
    return [{name: value for name, value in line.items() if not name.endswith(clocks)} for line in lines]


def published_again_by(recipe: TinyRecipe, stage: str, *overrides: str, version: int) -> list[dict[str, Any]]:
    """Take a finished stage's artefact away, run it again, and compare; the metrics before."""
    published = recipe.workspace / "registry" / f"tiny-{stage}" / str(version) / "model.safetensors"
    weights = published.read_bytes()
    metrics = recipe.run / stage / "metrics.jsonl"
    before = read_metrics(metrics)
    shutil.rmtree(published.parent)
    (recipe.run / stage / "published.json").unlink()
    code, output = recipe.call("run", "recipe.yaml", "--stage", stage, *overrides)
    assert code == 0, output
    assert f"goes on from step {before[-1]['step']}" in output
    assert published.read_bytes() == weights
    after = read_metrics(metrics)
    assert without_clocks(after)[: len(before)] == without_clocks(before), (
        "nothing was trained, so nothing was lost or changed"
    )
    assert {line["step"] for line in after} == {line["step"] for line in before}
    assert not any(line.get("train_loss") == 0 for line in after)
    return before


def test_a_full_run_publishes_three_artefacts_and_shows_them(finished_run: TinyRecipe) -> None:
    output = (finished_run.folder / "output.txt").read_text()
    for stage in ("sft", "reward", "ppo"):
        assert f"{stage:<7} built: nothing of it is there yet" in output
        assert f"{stage:<7} published tiny-{stage}@1" in output
        assert str(finished_run.workspace / "registry" / f"tiny-{stage}" / "1") in output
        assert read_metrics(finished_run.run / stage / "metrics.jsonl")
    assert "held-out accuracy" in output
    assert output.count("  ppo ") == output.count("  sft ") == 4, "the held-out prompts, answered by both"
    resolved = json.loads((finished_run.run / "recipe.json").read_text())
    assert resolved["ppo"]["gamma"] == 1.0
    assert not (finished_run.run / "sft" / "stopped").exists()


def test_a_second_run_does_nothing_and_is_quick(finished_run: TinyRecipe) -> None:
    started = time.monotonic()
    code, output = finished_run.call("run", "recipe.yaml")
    assert code == 0, output
    assert "Nothing to do" in output
    assert output.count("reused") == 3
    assert time.monotonic() - started < 10, "a stage that started would import torch and train"


def test_published_models_load_with_plain_transformers_and_give_the_published_scores(
    finished_run: TinyRecipe,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    registry = Registry(finished_run.workspace / "registry")
    for name in ("tiny-sft", "tiny-ppo"):
        model, info = AutoModelForCausalLM.from_pretrained(
            registry.resolve(name).path, output_loading_info=True
        )
        assert not info["missing_keys"] | info["unexpected_keys"], info
        assert model.config.pad_token_id != model.config.eos_token_id
    artefact = registry.resolve("tiny-reward")
    model, info = AutoModelForSequenceClassification.from_pretrained(artefact.path, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"], info
    probe = artefact.manifest.probe
    assert probe is not None
    assert len(probe.scores) == 4
    longest = max(map(len, probe.token_ids))
    ids = torch.full((4, longest), model.config.pad_token_id)
    for row, tokens in enumerate(probe.token_ids):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    with torch.no_grad():
        scores = model.eval()(input_ids=ids, attention_mask=(ids != model.config.pad_token_id).long()).logits
    assert scores.shape == (4, 1)
    assert scores[:, 0].tolist() == pytest.approx(probe.scores, abs=1e-4)
    assert len({round(score, 3) for score in probe.scores}) > 1
    tokenizer = AutoTokenizer.from_pretrained(artefact.path)
    assert {tokens[-1] for tokens in probe.token_ids} == {tokenizer.eos_token_id}


@pytest.mark.slow
def test_one_flipped_byte_is_found_and_the_next_stage_refuses(copied_run: TinyRecipe) -> None:
    weights = copied_run.workspace / "registry" / "tiny-reward" / "1" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    code, output = copied_run.call("registry", "verify", "tiny-reward")
    assert code == 1
    assert "model.safetensors" in output
    code, output = copied_run.call("run", "recipe.yaml", "--set", "ppo.seed=1")
    assert code == 1
    assert "ppo     built: changed since it last ran: ppo.seed null -> 1" in output
    assert "error: the ppo stage exited with 1" in output
    assert "tiny-reward@1" in output
    assert "model.safetensors" in output
    assert f"whole log: {copied_run.run}/ppo/log.txt" in output
    assert "Go on with: rlhf run recipe.yaml --set ppo.seed=1" in output
    assert "Traceback" not in output
    assert len(list((copied_run.workspace / "registry" / "tiny-ppo").iterdir())) == 1


@pytest.mark.slow
def test_a_reward_model_with_another_tokenizer_scores_text_and_nothing_is_lost(
    copied_run: TinyRecipe,
) -> None:
    registry = Registry(copied_run.workspace / "registry")
    ours = registry.resolve("tiny-reward")
    staged = registry.staging("other")
    for path in ours.path.iterdir():
        if not path.name.startswith("manifest"):
            shutil.copy(path, staged / path.name)
    tokenizer = json.loads((staged / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (staged / "tokenizer.json").write_text(json.dumps(tokenizer))
    fields = {name: getattr(ours.manifest, name) for name in ManifestDraft.model_fields}
    registry.publish(staged, ManifestDraft(**{**fields, "name": "other"}))
    code, output = copied_run.call("run", "recipe.yaml", "--set", "ppo.reward_model=registry:other")
    assert code == 0, output
    log = (copied_run.run / "ppo" / "log.txt").read_text(encoding="utf-8")
    assert "source reward_model: has another tokenizer or chat template, scores text" in log
    parents = registry.resolve("tiny-ppo").manifest.parents
    assert [parent.reference for parent in parents] == ["tiny-sft@1", "other@1"]
    code, output = copied_run.call("run", "recipe.yaml")
    assert code == 0
    assert "Nothing to do" in output
