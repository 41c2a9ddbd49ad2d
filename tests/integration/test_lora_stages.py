"""All three stages as adapters on one base: nobody writes to the base, and plain transformers loads what is published."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file
from stage_runs import run_stage_here, tiny
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.models.load import scratch_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe.model import ScratchModel
from rlhf.stages.context import weights_digest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The base folder, its files' digests before, and the three artefacts."""
    folder = tmp_path_factory.mktemp("lora")
    base = folder / "base"
    tokenizer = train_tokenizer(["The cat is good. The dog is bad."] * 3, 300)
    spec = ScratchModel(vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, max_positions=64)
    scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(base)
    tokenizer.save_pretrained(base)
    before = digests(base)
    changes = {"model": {"scratch": None, "path": str(base), "lora": {"r": 4, "alpha": 8, "dropout": 0.1}}}
    recipe = tiny(folder, changes)
    made = {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    return base, before, made


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_base_is_untouched_and_named_by_its_digest(run):
    base, before, made = run
    assert digests(base) == before
    for artefact in made.values():
        assert artefact.manifest.base.path == str(base)
        assert artefact.manifest.base.digest == weights_digest(base)
        assert not (artefact.path / "model.safetensors").exists()


def test_every_stage_moved_its_adapter(run):
    _, _, made = run
    weights = {stage: load_file(made[stage].path / "adapter_model.safetensors") for stage in made}
    lora = [name for name in weights["sft"] if "lora_B" in name]
    assert lora
    assert any(weights["sft"][name].abs().max() > 0 for name in lora)
    for stage in ("reward", "ppo"):
        assert set(lora) <= set(weights[stage])
        assert any(not weights[stage][name].equal(weights["sft"][name]) for name in lora), stage
        # it went on from the SFT adapter: four or so small steps away, not from a new one
        far = max(float((weights[stage][name] - weights["sft"][name]).abs().max()) for name in lora)
        assert far < 0.06, stage


@torch.no_grad()
def test_plain_transformers_gives_the_published_scores(run):
    _, _, made = run
    probe = made["reward"].manifest.probe
    model = AutoModelForSequenceClassification.from_pretrained(
        made["reward"].path, num_labels=1, dtype=torch.float32
    ).eval()
    model.config.pad_token_id = 0
    scores = [float(model(input_ids=torch.tensor([ids])).logits) for ids in probe.token_ids]
    assert scores == pytest.approx(probe.scores, abs=1e-4)
    for stage in ("sft", "ppo"):
        AutoModelForCausalLM.from_pretrained(made[stage].path)
