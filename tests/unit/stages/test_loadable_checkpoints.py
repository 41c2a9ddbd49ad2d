"""What a stage refuses of its layout: checkpoints of another strategy or number of processes, offload without a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from accelerate.utils import DistributedType

from rlhf.errors import CheckpointError, RecipeError
from rlhf.recipe.launch import LaunchSection
from rlhf.stages.sharded import require_device_for_offload, require_loadable

PLAIN = ["model.safetensors", "optimizer.bin", "random_states_0.pkl"]
FSDP2 = ["pytorch_model_fsdp.bin", "optimizer.bin"]


def zero(folder: str, parts: int, *, third: bool = False) -> list[str]:
    """The files of DeepSpeed, in the folder that Trainer ("global_step4") or Accelerate ("pytorch_model") gives them."""
    weights = "zero_pp_rank_0_mp_rank_00_model_states.pt" if third else "mp_rank_00_model_states.pt"
    return [f"{folder}/{weights}"] + [
        f"{folder}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(parts)
    ]


def written(folder: Path, files: list[str]) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def here(kind: DistributedType, processes: int, zero_stage: int = 2) -> Any:
    """Accelerate's handle on so many processes."""
    plugin = SimpleNamespace(zero_stage=zero_stage)
    return cast(
        Any,
        SimpleNamespace(
            distributed_type=kind, num_processes=processes, state=SimpleNamespace(deepspeed_plugin=plugin)
        ),
    )


@pytest.mark.parametrize("processes", [1, 2, 8])
@pytest.mark.parametrize(
    ("files", "kind"),
    [(PLAIN, DistributedType.MULTI_CPU), (FSDP2, DistributedType.FSDP)],
    ids=["ddp", "fsdp2"],
)
def test_whole_tensors_go_on_with_any_number_of_processes(
    tmp_path: Path, files: list[str], kind: DistributedType, processes: int
) -> None:
    require_loadable(here(kind, processes), written(tmp_path, files))


@pytest.mark.parametrize("folder", ["global_step4", "pytorch_model"])
@pytest.mark.parametrize(("third", "stage"), [(False, 1), (False, 2), (True, 3)])
def test_zero_goes_on_with_as_many_processes_and_refuses_others(
    tmp_path: Path, folder: str, third: bool, stage: int
) -> None:
    checkpoint = written(tmp_path, zero(folder, 2, third=third))
    require_loadable(here(DistributedType.DEEPSPEED, 2, stage), checkpoint)
    for processes in (1, 4):
        with pytest.raises(
            CheckpointError, match=rf"in 2 part\(s\), one a process, and {processes} process"
        ) as caught:
            require_loadable(here(DistributedType.DEEPSPEED, processes, stage), checkpoint)
        assert "Go on with 2 process(es)" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "kind", "stage", "saved", "wanted"),
    [
        (PLAIN, DistributedType.FSDP, 0, "ddp", "fsdp2"),
        (FSDP2, DistributedType.NO, 0, "fsdp2", "ddp"),
        (zero("pytorch_model", 1, third=True), DistributedType.DEEPSPEED, 2, "zero3", "zero1 or zero2"),
        (zero("global_step4", 1), DistributedType.MULTI_GPU, 0, "zero1 or zero2", "ddp"),
    ],
)
def test_another_strategy_is_refused(
    tmp_path: Path, files: list[str], kind: DistributedType, stage: int, saved: str, wanted: str
) -> None:
    with pytest.raises(CheckpointError, match=f"launch.strategy: {saved}, and cannot be read with {wanted}"):
        require_loadable(here(kind, 1, stage), written(tmp_path, files))


def test_offload_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    require_device_for_offload(LaunchSection(strategy="fsdp2"))
    with pytest.raises(RecipeError, match="this machine has no GPU") as caught:
        require_device_for_offload(LaunchSection(strategy="fsdp2", cpu_offload=True))
    assert "launch.cpu_offload=false" in str(caught.value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    require_device_for_offload(LaunchSection(strategy="fsdp2", cpu_offload=True))
