"""With adapters, PPO starts as the SFT model: the SFT adapter is what it trains, not a new one on the base."""

import pyarrow.parquet as pq
from safetensors.torch import load_file
from stage_runs import context_of, run_stage_here, tiny

from rlhf.models.load import scratch_causal_lm
from rlhf.models.tokenizer import train_tokenizer
from rlhf.recipe.model import ScratchModel


def test_line_28_what_ppo_samples_before_its_first_update_has_the_references_log_probabilities(tmp_path):
    base = tmp_path / "base"
    spec = ScratchModel(vocab_size=300, hidden_size=32, num_layers=1, num_heads=2, max_positions=64)
    scratch_causal_lm(spec, eos_token_id=1, pad_token_id=0, seed=1).save_pretrained(base)
    train_tokenizer(["The cat is good. The dog is bad."] * 3, 300).save_pretrained(base)
    changes = {"model": {"scratch": None, "path": str(base), "lora": {"r": 4, "alpha": 8}}}
    recipe, made = tiny(tmp_path, changes), {}
    for stage in ("sft", "reward", "ppo"):
        made[stage] = run_stage_here(recipe, stage, made)
    adapter = load_file(made["sft"].path / "adapter_model.safetensors")
    assert any(value.any() for name, value in adapter.items() if "lora_B" in name), "SFT left the base"
    folder = context_of(recipe, "ppo", made).folder / "rollouts"
    rows = pq.read_table(folder / "step-1-rank-0.parquet").to_pylist()
    assert rows
    for row in rows:
        assert row["logprobs"] == row["ref_logprobs"]
