"""Under bfloat16 FSDP2 and DeepSpeed lower the weights' own precision: a reward model is scored and published all the same."""

import pytest
import torch
from safetensors.torch import load_file
from stage_runs import run_stage_here
from strategy_runs import ragged, run_spread_stages

from rlhf.models.forward import score_token_lists
from rlhf.models.load import ModelSource, load_reward_model

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model to go on from."""
    return run_stage_here(ragged(tmp_path_factory.mktemp("start") / "base"), "sft")


@pytest.mark.parametrize(
    ("strategy", "num_processes", "published"),
    [("fsdp2", 2, torch.float32), ("zero2", 1, torch.bfloat16), ("zero3", 1, torch.bfloat16)],
)
def test_a_reward_model_is_trained_scored_and_published(tmp_path, base, strategy, num_processes, published):
    """DeepSpeed publishes the bfloat16 weights that its passes read, FSDP2 the float32 ones behind them."""
    launch = {"strategy": strategy, "num_processes": num_processes, "mixed_precision": "bf16"}
    artefact, notes = run_spread_stages(ragged(tmp_path / strategy, base, launch=launch), ["reward"])[
        "reward"
    ]
    assert [note["processes"] for note in notes] == [num_processes] * num_processes
    assert {tensor.dtype for tensor in load_file(artefact.path / "model.safetensors").values()} == {published}
    model, probe = load_reward_model(ModelSource(str(artefact.path))), artefact.manifest.probe
    scores = score_token_lists(model, probe.token_ids, batch_size=8)
    assert scores == pytest.approx(probe.scores, abs=1e-5), "scored in bfloat16, which some models mind a lot"
    assert max(scores) - min(scores) > 1e-3, "scores of equal size would show nothing"
