"""Watching a PPO stage from outside: what it holds after loading, and the peak and the seconds of rollout and update."""

import gc
import resource
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn

from rlhf.ppo.rollout import Collector
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.update import Updater

PhaseName = Literal["setup", "rollout", "update"]


@dataclass
class Phase:
    """One kind of work, over all times that it was done.

    Attributes:
        seconds: of each time.
        peak_allocated, peak_reserved: bytes on the GPU, the largest of all times; None on a CPU.
    """

    seconds: list[float] = field(default_factory=list[float])
    peak_allocated: int | None = None
    peak_reserved: int | None = None


@dataclass
class Record:
    """What a PPO stage held.

    Attributes:
        phases: loading, sampling with scoring, and optimising.
        weight_bytes: parameters of all models in the process, trained or not; each piece of memory once.
        gradient_bytes, optimizer_bytes: at an optimizer step, the largest of all; the optimizer's are its moments.
        num_updates: optimizer steps.
        host_peak_bytes: the process's largest resident memory.
    """

    phases: dict[PhaseName, Phase] = field(default_factory=dict[PhaseName, Phase])
    weight_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    num_updates: int = 0
    host_peak_bytes: int = 0

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and optimizer."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes

    @property
    def peak_allocated(self) -> int | None:
        """Over all phases; None on a CPU."""
        return max((phase.peak_allocated or 0 for phase in self.phases.values()), default=0) or None


@contextmanager
def recording() -> Generator[Record]:
    """Within it one PPO stage is run; what it gives is filled even where the stage runs out of memory."""
    record = Record()
    setup = _Measured(record, "setup")

    def train(trainer: PPOTrainer) -> bool:
        setup.end()
        record.weight_bytes = _parameter_bytes()
        inner: torch.optim.Optimizer = cast(Any, trainer.updater.optimizer).optimizer
        inner.register_step_post_hook(lambda optimizer, *_: _note_update(record, optimizer))
        return original(trainer)

    original = PPOTrainer.train
    setup.begin()
    try:
        with (
            patch.object(PPOTrainer, "train", train),
            patch.object(Collector, "collect", _timed(record, "rollout", Collector.collect)),
            patch.object(Updater, "update", _timed(record, "update", Updater.update)),
        ):
            yield record
    finally:
        if not record.phases:
            setup.end()
        record.host_peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory under some tensors, each piece once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class _Measured:
    """One time that a phase's work is done."""

    def __init__(self, record: Record, name: PhaseName) -> None:
        self.record = record
        self.name: PhaseName = name

    def begin(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.started = time.perf_counter()

    def end(self) -> None:
        phase = self.record.phases.setdefault(self.name, Phase())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            phase.peak_allocated = max(phase.peak_allocated or 0, torch.cuda.max_memory_allocated())
            phase.peak_reserved = max(phase.peak_reserved or 0, torch.cuda.max_memory_reserved())
        phase.seconds.append(time.perf_counter() - self.started)


def _timed(record: Record, name: PhaseName, method: Callable[..., Any]) -> Callable[..., Any]:
    def measured(*arguments: Any, **named: Any) -> Any:
        one = _Measured(record, name)
        one.begin()
        try:
            return method(*arguments, **named)
        finally:
            one.end()

    return measured


def _parameter_bytes() -> int:
    """Of every module that is alive, whoever holds it: nothing that the stage has loaded can be forgotten here."""
    gc.collect()
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
    return storage_bytes(parameter for module in modules for parameter in module.parameters(recurse=False))


def _note_update(record: Record, optimizer: torch.optim.Optimizer) -> None:
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in trained if p.grad is not None]
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim > 0]
    record.gradient_bytes = max(record.gradient_bytes, storage_bytes(gradients))
    record.optimizer_bytes = max(record.optimizer_bytes, storage_bytes(moments))
    record.num_updates += 1
