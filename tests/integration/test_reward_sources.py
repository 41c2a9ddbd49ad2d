"""PPO end to end on an ensemble, another tokenizer's reward model, a function, and a service that stumbles and dies."""

import json
import shutil
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from reward_service import reward_service
from stage_runs import run_stage_here, tiny

from rlhf.errors import RegistryError, TrainingError
from rlhf.metrics import read_metrics
from rlhf.models.load import ModelSource, load_causal_lm, load_reward_model
from rlhf.models.sequences import encode_completion, encode_prompt
from rlhf.models.tokenizer import chat_template_digest, load_tokenizer, tokenizer_digest
from rlhf.ppo.micro_batches import MicroBatches
from rlhf.recipe import Recipe
from rlhf.registry import ManifestDraft, Registry
from rlhf.stages.context import StageContext
from rlhf.stages.inputs import ModelInput, judges, registry_folder, run_folder, stage_inputs
from rlhf.stages.ppo import run as run_ppo
from rlhf.stages.reward_sources import build_rewards, load_critic

FAST = {"backoff_seconds": 0.01, "batch_size": 3, "timeout_seconds": 2.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """SFT model, two reward models, and a third whose tokenizer lacks a merge; tests take copies of the workspace."""
    folder = tmp_path_factory.mktemp("sources")
    recipe = tiny(folder)
    made = {}
    for stage in ("sft", "reward"):
        made[stage] = run_stage_here(recipe, stage, made)
    second = recipe.model_dump(mode="json")
    second["reward"] |= {"seed": 5, "publish_as": "second"}
    made["second"] = run_stage_here(Recipe.model_validate(second), "reward", {"sft": made["sft"]})
    made["other"] = with_another_tokenizer(Registry(registry_folder(recipe)), made["second"])
    return recipe, made


def with_another_tokenizer(registry, artefact):
    """The same weights under a tokenizer that splits some words otherwise; the probe holds tokens, so it still fits."""
    staged = registry.staging("other")
    for path in artefact.path.iterdir():
        if not path.name.startswith("manifest"):
            shutil.copy(path, staged / path.name)
    tokenizer = json.loads((staged / "tokenizer.json").read_text())
    del tokenizer["model"]["merges"][-6:]
    (staged / "tokenizer.json").write_text(json.dumps(tokenizer))
    fields = {name: getattr(artefact.manifest, name) for name in ManifestDraft.model_fields}
    return registry.publish(staged, ManifestDraft(**{**fields, "name": "other"}))


@pytest.fixture
def context(trained, tmp_path):
    """Builds PPO's context for changed values of its section, in a copy of the workspace."""
    recipe, made = trained
    shutil.copytree(recipe.workspace, tmp_path / "workspace")

    def built(single=None, **changes):
        values = recipe.model_dump(mode="json") | {"workspace": str(tmp_path / "workspace")}
        values["ppo"] |= {"shaping": {}} | changes
        here = Recipe.model_validate(values)
        pinned = {
            name: ModelInput(reference=artefact.reference, digest=artefact.digest)
            for name, artefact in made.items()
        }
        inputs = stage_inputs(
            here,
            "ppo",
            policy=pinned["sft"],
            reward_model=None if single is None else pinned[single],
            reward_models={s.name: pinned[s.name] for s in judges(here, "ppo") if s.model is not None},
            data={"x": "0"},
        )
        context = StageContext(here, inputs, run_folder(here))
        context.folder.mkdir(parents=True, exist_ok=True)
        return context

    return built


def model(name, **fields):
    return {"name": name, "model": "recipe"} | fields


def finished(context):
    """Run PPO; its metrics of the training steps and its rollout rows."""
    assert run_ppo(context)
    lines = [line for line in read_metrics(context.folder / "metrics.jsonl") if "objective/scores" in line]
    files = sorted((context.folder / "rollouts").glob("*.parquet"))
    rows = [
        row | {"scores": json.loads(row["scores"])} for f in files for row in pq.read_table(f).to_pylist()
    ]
    assert len(lines) == 2
    assert len(rows) == 16
    return lines, rows


def prompts_of(recipe):
    """The training prompts' texts."""
    lines = Path(recipe.data.prompts.train.path).read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def test_an_ensemble_is_combined_measured_recorded_and_a_parent(context, trained):
    _, made = trained
    ppo = context(
        rewards=[model("reward", normalize=True, weight=2.0), model("second", normalize=True)],
        combine="mean",
        evaluation={"samples_per_prompt": 1, "gold": model("other")},
    )
    lines, rows = finished(ppo)
    stats = [made[name].manifest.reward_stats for name in ("reward", "second")]
    for row in rows:
        a, b = (
            (row["scores"][name] - stat.mean) / stat.std
            for name, stat in zip(("reward", "second"), stats, strict=True)
        )
        assert row["score"] == pytest.approx((2 * a + b) / 2)
        assert row["scores"]["disagreement"] == pytest.approx(abs(2 * a - b) / 2)
        assert row["reward_model"] == "reward=tiny-reward@1, second=second@1"
    first = rows[:8]
    for name in ("reward", "second"):
        mean = sum(row["scores"][name] for row in first) / 8
        assert lines[0][f"objective/scores/{name}"] == pytest.approx(mean)
    spread = sum(row["scores"]["disagreement"] for row in first) / 8
    assert lines[0]["objective/score_disagreement"] == pytest.approx(spread) != 0
    parents = ppo.registry.resolve("tiny-ppo").manifest.parents
    assert [(parent.role, parent.reference) for parent in parents] == [
        ("policy", "tiny-sft@1"),
        ("reward_model", "tiny-reward@1"),
        ("reward_model", "second@1"),
        ("gold", "other@1"),
    ]
    evaluations = [line for line in read_metrics(ppo.folder / "metrics.jsonl") if "eval/gold_scores" in line]
    assert [line["step"] for line in evaluations] == [0, 2]


def test_line_04_another_tokenizers_reward_model_scores_the_text_and_the_critic_starts_from_the_policy(
    context, trained, capsys
):
    recipe, made = trained
    ppo = context(single="other", reward_model="registry:other")
    _, rows = finished(ppo)
    out = capsys.readouterr().out
    assert "source reward_model: has another tokenizer" in out
    assert "critic: starts from the policy" in out
    policy, own = load_tokenizer(made["sft"].path), load_tokenizer(made["other"].path)
    assert tokenizer_digest(policy) != tokenizer_digest(own)
    assert chat_template_digest(policy) == chat_template_digest(own)
    judge = load_reward_model(ModelSource(str(made["other"].path))).eval()
    prompts = prompts_of(recipe)
    differing = 0
    for row in rows:
        prompt = prompts[row["prompt_id"]]
        ids = encode_completion(own, prompt, row["response"], chat=True)
        ids = encode_prompt(own, prompt, chat=True) + (ids if row["finish_reason"] == "eos" else ids[:-1])
        differing += ids != row["prompt_ids"] + row["response_ids"]
        with torch.no_grad():
            expected = judge.score(judge.model(torch.tensor([ids])).last_hidden_state[0, -1])
        assert row["score"] == pytest.approx(float(expected), abs=1e-4)
    assert differing > 0, "the two tokenizers agree on everything: the test could not fail"


def test_the_critic_starts_from_the_first_model_that_reads_the_policys_tokens(context, trained):
    _, made = trained
    ppo = context(rewards=[model("other"), model("second"), model("reward")])
    tokenizer = ppo.tokenizer(ppo.inputs.policy)
    rewards = build_rewards(ppo, tokenizer, torch.device("cpu"), MicroBatches(ppo.recipe.ppo))
    assert rewards.critic_from == ppo.inputs.reward_models["second"]
    expected = load_reward_model(ModelSource(str(made["second"].path)))
    critic = load_critic(ppo, rewards, tokenizer)
    assert torch.equal(critic.score.weight, expected.score.weight)
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_a_critic_without_a_reward_model_has_the_policys_trunk_and_a_seeded_head(
    context, monkeypatch, tmp_path
):
    give_function(monkeypatch, tmp_path, "return [0.0] * len(responses)")
    ppo = context(rewards=[{"name": "words", "function": "user_words:score"}])
    tokenizer = ppo.tokenizer(ppo.inputs.policy)
    rewards = build_rewards(ppo, tokenizer, torch.device("cpu"), MicroBatches(ppo.recipe.ppo))
    assert rewards.critic_from is None
    one, two = (load_critic(ppo, rewards, tokenizer) for _ in range(2))
    assert torch.equal(one.score.weight, two.score.weight)
    assert one.score.out_features == 1
    policy = load_causal_lm(ModelSource(str(ppo.artefact("tiny-sft@1").path))).model.state_dict()
    trunk = one.model.state_dict()
    assert trunk.keys() == policy.keys()
    assert all(torch.equal(trunk[name], policy[name]) for name in policy)


def give_function(monkeypatch, folder, body):
    """A module `user_words` whose function has this body."""
    monkeypatch.chdir(folder)
    (folder / "user_words.py").write_text(f"def score(prompts, responses, metadata):\n    {body}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "user_words", raising=False)


def test_a_function_alone_scores_text_without_any_reward_model(context, monkeypatch, tmp_path):
    give_function(
        monkeypatch, tmp_path, "return [p.count('cat') - len(r) / 10 for p, r in zip(prompts, responses)]"
    )
    ppo = context(rewards=[{"name": "words", "function": "user_words:score", "weight": 2.0}])
    lines, rows = finished(ppo)
    prompts = prompts_of(ppo.recipe)
    for row in rows:
        expected = prompts[row["prompt_id"]].count("cat") - len(row["response"]) / 10
        assert row["scores"] == {"words": pytest.approx(expected)}
        assert row["score"] == pytest.approx(2 * expected)
        assert row["reward_model"] == "words=user_words:score"
    assert "objective/score_disagreement" not in lines[0]


def by_length(body):
    return 200, {"scores": [len(response) / 10 for response in body["responses"]]}


def test_a_service_that_is_slow_and_stumbles_is_waited_for(context, monkeypatch, capsys):
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def stumbles(number, body):
        if number == 0:
            time.sleep(0.3)
        return {1: (503, b""), 2: "drop"}.get(number) or by_length(body)

    with reward_service(stumbles) as (url, _):
        lines, rows = finished(context(rewards=[{"name": "judge", "url": url, "retries": 2} | FAST]))
    for row in rows:
        assert row["score"] == pytest.approx(len(row["response"]) / 10)
        assert row["reward_model"] == f"judge={url}"
    out = capsys.readouterr().out
    assert "try 1 of 3: HTTP 503" in out
    assert "try 2 of 3: " in out
    assert lines[0]["objective/scores/judge"] == pytest.approx(sum(row["score"] for row in rows[:8]) / 8)


def test_a_service_that_dies_stops_the_stage_and_the_same_call_goes_on_once_it_is_back(context, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    back = threading.Event()

    def dies_after_the_first_checkpoint(number, body):
        newest = ppo.checkpoints.newest()
        return by_length(body) if back.is_set() or newest is None or newest.step < 1 else (503, b"")

    with reward_service(dies_after_the_first_checkpoint) as (url, _):
        ppo = context(rewards=[{"name": "judge", "url": url, "retries": 1} | FAST])
        with pytest.raises(TrainingError) as caught:
            run_ppo(ppo)
        for part in (url, "asked 2 times", "HTTP 503", "run the same command"):
            assert part in str(caught.value)
        assert ppo.checkpoints.newest().step == 1
        back.set()
        finished(ppo)


def test_a_tampered_reward_model_of_the_list_is_refused(context):
    ppo = context(rewards=[model("reward"), model("second")])
    weights = ppo.registry.resolve("second@1").path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RegistryError, match=r"second@1 .* is not as published"):
        run_ppo(ppo)


def test_each_artefact_is_verified_once_a_process(context, monkeypatch):
    opened = []
    original = Registry.open_verified

    def counting(self, reference):
        opened.append(reference)
        return original(self, reference)

    monkeypatch.setattr(Registry, "open_verified", counting)
    finished(context(rewards=[model("reward"), model("second")]))
    assert sorted(opened) == ["second@1", "tiny-reward@1", "tiny-sft@1"]
