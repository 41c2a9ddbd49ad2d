"""How a stage's processes start: how many, on how many machines, and what each of them holds."""

import os
from typing import Literal

from pydantic import Field, field_validator

from rlhf.recipe.base import Section

Strategy = Literal["ddp", "zero1", "zero2", "zero3", "fsdp2"]


class LaunchSection(Section):
    """How a stage's processes start."""

    num_processes: int = Field(default=1, ge=1)
    """Processes on each machine, one a GPU (or a share of the CPU's cores)."""
    num_machines: int = Field(default=1, ge=1)
    """Machines; `rlhf run` is called on the first one alone, `prefix` starts the others, and the workspace lies on a disk that all of them share."""
    rendezvous: str | None = Field(default=None, pattern=r"^[^\s:/]+:[0-9]{1,5}$")
    """`host:port` of the first machine, where the others find it; needed for several machines."""
    prefix: list[str] = Field(default_factory=list[str])
    """Put before the stage's command, such as `[srun, --ntasks-per-node=1]`, which starts the launcher on every machine of a SLURM job."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """`auto`: bfloat16 autocast over float32 weights on a GPU that has it, float32 on a CPU."""
    strategy: Strategy = "ddp"
    """What the processes share out: nothing (`ddp`), the optimizer (`zero1`), gradients too (`zero2`), weights too (`zero3`; Rajbhandari et al. 2020), or all three by PyTorch itself (`fsdp2`)."""
    cpu_offload: bool = False
    """Keep what is shared out in the CPU's memory: slower, for models that do not fit otherwise."""
    accelerate_config: str | None = None
    """An Accelerate configuration file (see recipes/accelerate/) instead of `strategy`, on one machine."""

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: object) -> object:
        """YAML 1.1 reads a bare `no` as false."""
        return "no" if value is False else value

    @property
    def world_size(self) -> int:
        """Processes on all machines together."""
        return self.num_processes * self.num_machines

    @property
    def cores_of_each(self) -> int:
        """Of this machine, as its processes share them."""
        return max(1, (os.cpu_count() or 1) // self.num_processes)

    @property
    def has_launcher(self) -> bool:
        """Whether a launcher stands between the pipeline and the stage's processes."""
        return self.world_size > 1 or self.strategy != "ddp" or self.accelerate_config is not None
