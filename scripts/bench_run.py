"""Runs the product's own PPO stage for scripts/bench_ppo.py and watches it from outside: seconds and memory by phase.

It builds models, engine and trainer as in `rlhf run`, and takes no checkpoint, evaluates and publishes nothing, all of
which lies outside of a step.
"""

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import torch
from bench_facts import copy_bandwidth, size_of
from bench_figures import STOP_ID, Row, decode_figures, step_figures, stop_noise

from rlhf.ppo.actor_critic import ActorCritic
from rlhf.ppo.engines.base import Generation, GenerationEngine
from rlhf.ppo.episodes import Rollout
from rlhf.ppo.rollout import Collector
from rlhf.ppo.trainer import PPOTrainer
from rlhf.stages.context import StageContext
from rlhf.stages.ppo import run
from rlhf.stages.ppo_checkpoints import PPOSink

PhaseName = Literal["setup", "generate", "score", "update", "rest"]


@dataclass
class Watched:
    """What was seen of the steps, in their order.

    Attributes:
        metrics: as the trainer logs them.
        rows: prompt and response tokens of every episode.
        seconds: by phase.
        cpu_seconds: of all threads of this process; on a machine that others use, of one thread, the better measure.
        peaks: bytes allocated and reserved, the most over all steps; empty on a CPU.
    """

    metrics: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    rows: list[list[Row]] = field(default_factory=list[list[Row]])
    seconds: list[dict[PhaseName, float]] = field(default_factory=list[dict[PhaseName, float]])
    cpu_seconds: list[float] = field(default_factory=list[float])
    peaks: dict[PhaseName, tuple[int, int]] = field(default_factory=dict[PhaseName, tuple[int, int]])
    _phase: PhaseName = "setup"
    _since: float = 0.0

    def enter(self, phase: PhaseName) -> None:
        """End the phase that runs and begin another; no device work of the old one is left to the new one."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            allocated, reserved = self.peaks.get(self._phase, (0, 0))
            self.peaks[self._phase] = (
                max(allocated, torch.cuda.max_memory_allocated()),
                max(reserved, torch.cuda.max_memory_reserved()),
            )
            torch.cuda.reset_peak_memory_stats()
        now = time.perf_counter()
        if self.seconds:
            taken = self.seconds[-1]
            taken[self._phase] = taken.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now


def on_trainer(context: StageContext, work: Callable[[PPOTrainer], None]) -> None:
    """Start the PPO stage and do something with its trainer in place of training."""

    def train(trainer: PPOTrainer) -> bool:
        work(trainer)
        return False  # as if a signal had stopped it: nothing is published

    with patch.object(PPOTrainer, "train", train):
        run(context)


@contextmanager
def watching(trainer: PPOTrainer, profile: Path | None = None) -> Generator[Watched]:
    """Within it the trainer's steps are measured.

    Args:
        trainer: before its first step.
        profile: where to write a profile of the last step, by operator, which slows that step.
    """
    seen = Watched()
    collector, engine = type(trainer.collector), type(cast(Collector, trainer.collector).engine)
    sink, updater = type(trainer.sink), type(trainer.updater)
    collect, record, log = collector.collect, sink.record, sink.log
    profiler = None if profile is None else _profiler()

    def collecting(*arguments: Any, **named: Any) -> Rollout:
        if profiler is not None and trainer.step == trainer.section.num_steps - 1:
            profiler.start()
        seen.enter("rest")
        seen.seconds.append({})
        seen.cpu_seconds.append(-time.process_time())
        return _phase(seen, "score", collect)(*arguments, **named)

    def recording(self: PPOSink, step: int, rollout: Rollout, *others: Any) -> None:
        record(self, step, rollout, *others)
        prompts, responses = rollout.prompt_mask.sum(dim=1), rollout.response_mask.sum(dim=1)
        seen.rows.append(list(zip(prompts.tolist(), responses.tolist(), strict=True)))

    def logging(self: PPOSink, step: int, metrics: dict[str, float]) -> None:
        log(self, step, metrics)
        seen.enter("rest")
        seen.cpu_seconds[-1] += time.process_time()
        seen.metrics.append(dict(metrics))

    with (
        patch.object(collector, "collect", collecting),
        patch.object(engine, "generate", _phase(seen, "generate", engine.generate, after="score")),
        patch.object(updater, "update", _phase(seen, "update", updater.update)),
        patch.object(sink, "record", recording),
        patch.object(sink, "log", logging),
        patch.object(sink, "save_if_due", lambda *_, **__: False),
    ):
        yield seen
    if profiler is not None and profile is not None:
        profiler.stop()
        _write_profile(profiler, profile)


def measure_steps(context: StageContext, *, warmup: int, profile: Path | None = None) -> dict[str, Any]:
    """Train as the recipe says; the figures of the steps after the warm-up, for JSON and the table."""
    result: dict[str, Any] = {}

    def work(trainer: PPOTrainer) -> None:
        trainer.evaluator = None
        result.update(about(context, trainer))
        with watching(trainer, profile) as seen:
            trained(trainer)
        last = None if profile is None else -1
        result.update(step_figures(result, vars(seen), slice(warmup, last)))

    trained = PPOTrainer.train
    on_trainer(context, work)
    return result


def about(context: StageContext, trainer: PPOTrainer) -> dict[str, Any]:
    """What was measured, and the peer's part of it under `work`."""
    section, accelerator = trainer.section, trainer.accelerator
    policy = cast(ActorCritic, accelerator.unwrap_model(trainer.model)).policy
    collector = cast(Collector, trainer.collector)
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    is_bf16 = "bf16" in accelerator.mixed_precision or next(policy.parameters()).dtype == torch.bfloat16
    models = {"policy": context.inputs.policy, "reward_model": context.inputs.reward_model}
    work: dict[str, Any] = {
        **{role: None if model is None else context.source(model).path for role, model in models.items()},
        "is_lora": context.recipe.model.lora is not None,
        "prompts": [
            prompt.token_ids for step in range(section.num_steps) for prompt, _ in trainer.prompts.step(step)
        ],
        "stop_ids": list(collector.stop_ids),
        "dtype": str(next(policy.parameters()).dtype).removeprefix("torch."),
        "autocast": context.use_bf16,
        "section": section.model_dump(mode="json"),
    }
    return {
        "device": device,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "engine": type(collector.engine).__name__,
        "size": size_of(policy),
        "slots": section.rollout_batch_size,
        "processes": accelerator.num_processes,
        "bytes_per_value": 2 if is_bf16 else 4,
        "bytes_per_second": copy_bandwidth(accelerator.device),
        "work": work,
    }


def measure_decode(
    context: StageContext,
    lengths: dict[str, list[int]],
    *,
    rows_per_call: int,
    rounds: int,
    profile: Path | None = None,
) -> dict[str, Any]:
    """The engine alone, as the stage built it, on the policy's weights.

    Args:
        context: PPO's.
        lengths: name -> the response's tokens, a row each. The engine is not told: a row's noise makes it draw the stop
            token there. What reaches the recipe's limit is cut instead.
        rows_per_call: rows that the engine is given at a time.
        rounds: measured ones, after one that is stated apart.
        profile: where to write a profile of one more round of the last lengths, by operator.
    """
    result: dict[str, Any] = {}

    def work(trainer: PPOTrainer) -> None:
        result.update(about(context, trainer))
        runs = (_decode(trainer, result, name, rows, rows_per_call, rounds) for name, rows in lengths.items())
        result["runs"] = list(runs)
        if profile is not None:
            with _profiler() as profiler:
                _decode(trainer, result, *list(lengths.items())[-1], rows_per_call, 0)
            _write_profile(profiler, profile)

    on_trainer(context, work)
    return result


def _decode(
    trainer: PPOTrainer, known: dict[str, Any], name: str, lengths: list[int], size: int, rounds: int
) -> dict[str, Any]:
    available = trainer.prompts.prompts
    prompts = [available[row % len(available)].token_ids for row in range(len(lengths))]
    order = sorted(range(len(lengths)), key=lambda row: len(prompts[row]))
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    longest = max(lengths) if min(lengths) == max(lengths) else trainer.section.sampling.max_new_tokens
    noise = [torch.tensor(stop_noise([lengths[row] for row in chunk], longest)) for chunk in chunks]
    seen = Watched()
    seen.enter("generate")
    made: list[Generation] = []
    for _ in range(rounds + 1):
        seen.seconds.append({})
        seen.enter("generate")
        made = [
            _generate(trainer, [prompts[row] for row in chunk], part)
            for chunk, part in zip(chunks, noise, strict=True)
        ]
        seen.enter("rest")
    sampled = [length for each in made for length in each.response_mask.sum(dim=1).tolist()]
    if sampled != [lengths[row] for chunk in chunks for row in chunk]:
        raise SystemExit(f"{known['engine']} did not end responses where the noise says")
    rows = [(len(prompts[row]), lengths[row]) for row in range(len(lengths))]
    seconds = [each["generate"] for each in seen.seconds] if rounds else [math.nan] * 2
    return decode_figures(known, name, rows, seconds, seen.peaks.get("generate", (None, None)))


@torch.no_grad()
def _generate(trainer: PPOTrainer, prompts: list[list[int]], noise: torch.Tensor) -> Generation:
    """The one place where the engine's interface is used."""
    model = cast(ActorCritic, trainer.accelerator.unwrap_model(trainer.model)).eval()
    engine: GenerationEngine = cast(Collector, trainer.collector).engine
    sampling = trainer.section.sampling
    with trainer.accelerator.autocast():
        return engine.generate(
            model.policy,
            prompts,
            noise,
            temperature=sampling.temperature,
            stop_ids=(STOP_ID,),
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )


def _profiler() -> torch.profiler.profile:
    """Of kernels alone on a GPU: the host's side of a step is a million events more."""
    kinds = torch.profiler.ProfilerActivity
    return torch.profiler.profile(activities=[kinds.CUDA if torch.cuda.is_available() else kinds.CPU])


def _write_profile(profiler: torch.profiler.profile, file: Path) -> None:
    by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=50, max_name_column_width=110)
    file.write_text(table, encoding="utf-8")


def _phase(seen: Watched, name: PhaseName, method: Callable[..., Any], after: PhaseName = "rest") -> Any:
    def measured(*arguments: Any, **named: Any) -> Any:
        seen.enter(name)
        try:
            return method(*arguments, **named)
        finally:
            seen.enter(after)

    return measured
