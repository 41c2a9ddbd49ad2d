"""What sharing out a model over processes asks of the SFT and reward runners."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType


def prepare_process() -> None:
    """Tell DeepSpeed that there is no GPU, before anything imports it: it looks for CUDA alone."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def let_cpus_shard() -> None:
    """Make Accelerate's FSDP count on CPUs too: it wraps where the processes are called GPUs, DDP comes silently else.

    Called between the first `PartialState` and the `Accelerator`.
    """
    wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    state = PartialState()
    if wanted and state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
