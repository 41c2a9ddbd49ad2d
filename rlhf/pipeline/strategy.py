"""A recipe's `launch` as Accelerate and torchrun want it: environment variables and a command line.

One launcher for all strategies, on GPUs and CPUs alike. `accelerate launch --cpu --num_processes 2` starts one process
without a word (accelerate 1.15); torchrun starts two, and Accelerate reads from the environment what to wrap them in.
"""

import sys

from rlhf.recipe.launch import LaunchSection

_ZERO_STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
_PLAIN_FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    # Whole tensors on rank 0: checkpoints of any number of processes load on any other, and on one CPU.
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    # Else transformers leaves every model on ranks other than 0 empty, those too that FSDP never fills again.
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}


def strategy_environment(launch: LaunchSection) -> dict[str, str]:
    """The variables from which Accelerate makes its plugin; none for DDP, which it finds by itself."""
    if launch.strategy == "ddp":
        return {}
    if launch.strategy == "fsdp2":
        return _PLAIN_FSDP2 | {"FSDP_OFFLOAD_PARAMS": str(launch.cpu_offload).lower()}
    stage = _ZERO_STAGES[launch.strategy]
    device = "cpu" if launch.cpu_offload else "none"
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": device,
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": device if stage == 3 else "none",
        # Else a model that no optimizer trains, such as a reference, would be cut into pieces as it is loaded.
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    }


def launcher_command(launch: LaunchSection) -> list[str]:
    """What stands before `-m rlhf.stages …`: Python alone for one process, torchrun or Accelerate otherwise."""
    python = [*launch.prefix, sys.executable, "-u"]
    if launch.accelerate_config is not None:
        return [
            *python,
            *("-m", "accelerate.commands.launch", "--config_file", launch.accelerate_config),
            *("--num_processes", str(launch.num_processes)),
        ]
    if not launch.has_launcher:
        return python
    torchrun = [*python, "-m", "torch.distributed.run"]
    processes = ["--nproc_per_node", str(launch.num_processes)]
    if launch.num_machines == 1:
        return [*torchrun, "--standalone", *processes]
    assert launch.rendezvous is not None
    meeting = ("--rdzv_backend", "c10d", "--rdzv_endpoint", launch.rendezvous, "--rdzv_id", "rlhf")
    return [*torchrun, "--nnodes", str(launch.num_machines), *meeting, *processes]
