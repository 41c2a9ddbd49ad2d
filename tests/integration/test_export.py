"""`rlhf export`: what is written says what was published, to plain transformers, and appears whole or not at all."""

import json
import shutil

import pytest
import torch
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from stage_runs import run_stage_here, tiny
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

import rlhf.models.merge as merging
from rlhf.cli import app
from rlhf.errors import ModelError, UsageError
from rlhf.models.load import ModelSource, load_causal_lm, scratch_causal_lm
from rlhf.models.merge import outputs
from rlhf.models.quantized import Quantization
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe.model import ScratchModel
from rlhf.registry import Registry
from rlhf.stages.context import weights_digest

SHORT = {"max_steps": 2, "eval_every_steps": 2, "num_epochs": 1}
PPO = {"num_steps": 1, "learning_rate": 0.01, "eval_every_steps": 1}
WHOLE = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
WHOLE |= {"tokenizer_config.json", "chat_template.jinja", "export.json"}


def trained(folder, quantize):
    """Workspace and artefacts of three stages with LoRA on a base whose embeddings are tied."""
    spec = ScratchModel(vocab_size=300, hidden_size=64, num_layers=2, num_heads=2, max_positions=64)
    scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(folder / "base")
    train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(folder / "base")
    lora = {"r": 4, "alpha": 16, "dropout": 0.1, "quantize": quantize}
    model = {"scratch": None, "path": str(folder / "base"), "lora": lora}
    recipe = tiny(folder, {"model": model, "sft": SHORT, "reward": SHORT, "ppo": PPO})
    made = {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    return folder, made


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("lora"), None)


@pytest.fixture(scope="module")
def qlora(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("qlora"), "nf4")


def export(folder, *arguments):
    """Call the command; its output. An error of a user's is raised, as `main` would print it."""
    call = ["export", *map(str, arguments), "--workspace", str(folder / "workspace")]
    return CliRunner().invoke(app, call, catch_exceptions=False).output


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def plain_scores(path, probe, **given):
    model = AutoModelForSequenceClassification.from_pretrained(path, **given).eval()
    with torch.no_grad():
        return [float(model(input_ids=torch.tensor([ids])).logits) for ids in probe.token_ids]


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_merged_policy_says_what_base_and_adapter_say(lora, tmp_path, stage):
    folder, made = lora
    before = weights_digest(folder / "base")
    said = export(folder, f"tiny-{stage}", tmp_path / "out" / "merged", "--merge")
    assert f"merged tiny-{stage}@1 into" in said
    out = tmp_path / "out" / "merged"
    assert names_in(out) == WHOLE
    assert names_in(out.parent) == {"merged"}
    assert weights_digest(folder / "base") == before
    assert Registry(folder / "workspace" / "registry").verify(f"tiny-{stage}@1") == []
    adapted = load_causal_lm(ModelSource(str(made[stage].path)), trainable=False)
    ours = AutoModelForCausalLM.from_pretrained(out)
    assert ours.dtype == torch.float32
    assert torch.allclose(outputs(ours, "causal_lm"), outputs(adapted, "causal_lm"), atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    assert not torch.allclose(outputs(ours, "causal_lm"), outputs(base, "causal_lm"), atol=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(made[stage].path).chat_template
    assert ours.config.pad_token_id == tokenizer.pad_token_id
    origin = json.loads((out / "export.json").read_text())
    assert (origin["merged_from"], origin["digest"]) == (f"tiny-{stage}@1", made[stage].digest)
    assert origin["base"]["digest"] == before
    assert 0 <= origin["largest_difference_float32"] < 1e-4


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_merged_reward_model_scores_as_published_without_further_arguments(request, tmp_path, kind):
    """Of a base in 4 bits too: the adapter goes into the weights that the codes stand for."""
    folder, made = request.getfixturevalue(kind)
    export(folder, "tiny-reward@1", tmp_path / "merged", "--merge")
    probe = made["reward"].manifest.probe
    assert plain_scores(tmp_path / "merged", probe) == pytest.approx(probe.scores, abs=1e-4)
    held = load_file(made["reward"].path / "adapter_model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged["score.weight"], held["base_model.model.score.weight"])
    assert merged["score.weight"].shape == (1, 64)


def test_a_policy_trained_on_4_bits_merges_into_what_it_was_trained_on(qlora, tmp_path):
    folder, made = qlora
    export(folder, "tiny-ppo", tmp_path / "merged", "--merge")
    ours = outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), "causal_lm")
    path = str(made["ppo"].path)
    trained_on = load_causal_lm(ModelSource(path, quantization=Quantization("nf4")), trainable=False)
    assert torch.allclose(ours, outputs(trained_on, "causal_lm"), atol=1e-4)
    whole = load_causal_lm(ModelSource(path), trainable=False)
    assert not torch.allclose(ours, outputs(whole, "causal_lm"), atol=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_precision_is_that_of_the_files_alone(lora, tmp_path, dtype):
    """Merged in float32 and rounded once: every weight is the float32 one's nearest."""
    folder, _ = lora
    export(folder, "tiny-sft", tmp_path / "exact", "--merge")
    export(folder, "tiny-sft", tmp_path / "rounded", "--merge", "--dtype", dtype)
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "rounded"))
    assert exact.keys() == rounded.keys()
    for name, value in exact.items():
        assert torch.equal(value.to(getattr(torch, dtype)), rounded[name]), name
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "rounded").dtype == getattr(torch, dtype)


def test_an_artefact_is_copied_as_it_is(lora, tmp_path):
    folder, made = lora
    assert export(folder, "tiny-ppo@latest", tmp_path / "copy").startswith("copied tiny-ppo@1")
    source = made["ppo"].path
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert {p.relative_to(tmp_path / "copy") for p in (tmp_path / "copy").rglob("*") if p.is_file()} == files
    assert all((source / name).read_bytes() == (tmp_path / "copy" / name).read_bytes() for name in files)


def test_whole_weights_are_copied_with_merge_too(finished_run, tmp_path):
    export(finished_run.folder, "tiny-reward", tmp_path / "copy", "--merge")
    source = finished_run.workspace / "registry" / "tiny-reward" / "1"
    assert names_in(tmp_path / "copy") == names_in(source)
    with pytest.raises(UsageError, match="holds whole weights: there is nothing to merge"):
        export(finished_run.folder, "tiny-reward", tmp_path / "other", "--merge", "--dtype", "bfloat16")


def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure(lora, tmp_path, monkeypatch):
    folder, _ = lora
    (tmp_path / "there").mkdir()
    for more in ([], ["--merge"]):
        with pytest.raises(UsageError, match="there is there already"):
            export(folder, "tiny-sft", tmp_path / "there", *more)
    with pytest.raises(UsageError, match="lies in the registry"):
        export(folder, "tiny-sft", folder / "workspace" / "registry" / "tiny-sft" / "2")
    with pytest.raises(UsageError, match="--dtype is of merged weights"):
        export(folder, "tiny-sft", tmp_path / "new", "--dtype", "float16")
    # As if a layer could not be merged: the weights say something else than the adapter.
    monkeypatch.setattr(merging, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="merged into its base it differs from the adapter by"):
        export(folder, "tiny-sft", tmp_path / "new", "--merge")
    assert names_in(tmp_path) == {"there"}
    assert names_in(folder / "workspace" / "registry" / "tiny-sft") == {"1"}


def test_a_base_that_is_another_now_is_refused(lora, tmp_path):
    folder, made = lora
    original, kept = folder / "base" / "model.safetensors", tmp_path / "kept.safetensors"
    shutil.copyfile(original, kept)
    weights = load_file(kept)
    weights["model.norm.weight"] *= 2
    save_file(weights, original, metadata={"format": "pt"})
    try:
        with pytest.raises(ModelError, match="whose weights are not those it was trained on"):
            export(folder, "tiny-sft", tmp_path / "out", "--merge")
    finally:
        shutil.copyfile(kept, original)
    assert not (tmp_path / "out").exists()
    assert made["sft"].manifest.base.digest == weights_digest(folder / "base")


def test_a_weight_that_a_precision_cannot_hold_is_refused(lora, tmp_path, monkeypatch):
    folder, _ = lora
    real = LoraModel.merge_and_unload

    def huge(self, *args, **kwargs):
        model = real(self, *args, **kwargs)
        model.model.layers[0].input_layernorm.weight.data[0] = 1e5
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", huge)
    monkeypatch.setattr(merging, "TOLERANCE", float("inf"))
    with pytest.raises(ModelError, match=r"1 weight\(s\) do not read back .*input_layernorm"):
        export(folder, "tiny-sft", tmp_path / "out", "--merge", "--dtype", "float16")
    assert names_in(tmp_path) == set()
