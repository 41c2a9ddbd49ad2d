"""Every strategy makes the step that one process makes, on rows of very different lengths; gloo on the CPU."""

import pytest
import torch
from safetensors.torch import load_file
from stage_runs import run_stage_here
from strategy_runs import ragged, run_spread_stages

from rlhf.models.load import ModelSource, load_causal_lm, load_reward_model
from rlhf.stages.hf_trainer import CheckpointingTrainer

pytestmark = pytest.mark.distributed

SPREADS = [
    ("ddp", 2, "DistributedDataParallel"),
    ("fsdp2", 2, "FSDPModule"),
    ("zero1", 2, "DeepSpeedEngine"),
    ("zero2", 1, "DeepSpeedEngine"),
    ("zero3", 1, "DeepSpeedEngine"),
    ("zero3", 2, "DeepSpeedEngine"),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model to go on from, and what one process makes of it in one step: {stage: (artefact, gradient norm)}."""
    folder = tmp_path_factory.mktemp("start")
    base = run_stage_here(ragged(folder / "base"), "sft")
    made, norms = {}, []
    with pytest.MonkeyPatch.context() as patch:
        real = CheckpointingTrainer._get_grad_norm
        patch.setattr(
            CheckpointingTrainer,
            "_get_grad_norm",
            lambda self, *args, **kwargs: norms.append(float(norm := real(self, *args, **kwargs))) or norm,
        )
        for stage in ("sft", "reward"):
            recipe = ragged(folder / f"one-{stage}", base, per_device_batch_size=8)
            made[stage] = run_stage_here(recipe, stage), norms.pop()
    assert not norms
    return base, made


def change(base, artefact):
    """All differences of the weights that both have, as one vector [N] float64; a score head is taken as it is."""
    before, after = load_file(base.path / "model.safetensors"), load_file(artefact.path / "model.safetensors")
    assert all(tensor.numel() for tensor in after.values())
    head = [after["score.weight"].flatten()] if "score.weight" in after else []
    shared = sorted(before.keys() & after.keys())
    return torch.cat([*((after[name] - before[name]).flatten() for name in shared), *head]).double()


@pytest.mark.parametrize(("strategy", "num_processes", "wrapper"), SPREADS)
def test_one_step_is_that_of_one_process(tmp_path, start, strategy, num_processes, wrapper):
    base, made = start
    launch = {"strategy": strategy, "num_processes": num_processes}
    recipe = ragged(tmp_path / f"{strategy}-{num_processes}", base, launch=launch)
    # One launch for both stages; but ZeRO-3 leaves its configuration to whatever the process loads next.
    launches = [["sft"], ["reward"]] if strategy == "zero3" else [["sft", "reward"]]
    ran = {}
    for stages in launches:
        ran |= run_spread_stages(recipe, stages)
    for stage, (artefact, notes) in ran.items():
        assert [(note["processes"], note["wrapper"]) for note in notes] == [
            (num_processes, wrapper)
        ] * num_processes
        alone, norm = made[stage]
        for note in notes:
            assert note["norms"] == [pytest.approx(norm, rel=1e-5)]
            assert note["reuse_distance"] == (0 if wrapper == "DeepSpeedEngine" else None)
        expected, got = change(base, alone), change(base, artefact)
        assert (got - expected).norm() < 1e-5 * expected.norm()
        load = load_causal_lm if stage == "sft" else load_reward_model
        assert sum(each.numel() for each in load(ModelSource(str(artefact.path))).parameters()) > 30_000
