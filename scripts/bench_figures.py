"""What scripts/bench_ppo.py computes from lengths and seconds; imports no torch.

The floor of decoding: every step reads the weights and the key-value cache once, at the measured copy bandwidth.
Floating-point operations (FLOPs) of matrix products: 2 a weight and token forward, 6 for a forward and a backward
pass over trained weights, 4 where the weights are frozen under LoRA, whose own are left out. An input embedding is no
product; a language-model head counts for the tokens that are sampled, since no other logits are needed. Recomputed
activations do not count. Attention's products of queries, keys and values are left out too: `attention_share` says
how much they would add.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

FORWARD, TRAIN_FULL, TRAIN_LORA = 2, 6, 4
"""FLOPs a weight and token."""
STOP_ID, LEAST_NOISE = 0, 0.05
"""The token that ends a response of the engine alone: the inverse of the distribution function gives it for noise 0,
and for noise from `LEAST_NOISE` on it never does, as no random model thinks it that likely."""
PEAK_FLOPS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}
"""Dense bfloat16 FLOPs a second by a part of the device's name (NVIDIA's data sheets, SXM)."""
_EMPTY: dict[str, Any] = dict.fromkeys(("flops", "mfu", "peak_allocated", "peak_reserved"))


@dataclass(frozen=True)
class Size:
    """A causal language model as its products see it.

    Attributes:
        trunk: parameters without embeddings, head and adapters.
        head: parameters of the language-model head, tied or not.
        layers, hidden: depth, and width of the queries.
        key_width: width of the keys, and of the values, of one layer.
    """

    trunk: int
    head: int
    layers: int
    hidden: int
    key_width: int


Row = tuple[int, int]
"""Tokens of a prompt and of its response."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of one PPO step's phases."""

    generate: int
    score: int
    update: int


def decode_floor_seconds(
    size: Size,
    rows: Sequence[Row],
    *,
    slots: int,
    bytes_per_value: int,
    bytes_per_second: float,
    processes: int = 1,
) -> float:
    """The least time in which memory buses, one a process, can decode.

    Each process reads the weights once a step, and there are at least as many steps as the longest response has tokens,
    and as all responses fill at `slots` a process and step. A row's cache at token t holds its prompt and t tokens: a
    response of T tokens reads T (P + T / 2) entries. Prefill costs nothing here.

    Args:
        size: of the policy.
        rows: all of them.
        slots: rows decoded at a time by a process.
        bytes_per_value: of weights and cache.
        bytes_per_second: of a process's memory.
        processes: they share the rows.
    """
    tokens = sum(response for _, response in rows)
    steps = max(max(response for _, response in rows), -(-tokens // (slots * processes)))
    cache_entry = 2 * size.layers * size.key_width
    entries = sum(response * (prompt + response / 2) for prompt, response in rows)
    values = steps * (size.trunk + size.head) + entries * cache_entry / processes
    return values * bytes_per_value / bytes_per_second


def step_flops(size: Size, rows: Sequence[Row], *, num_epochs: int, lora: bool) -> Flops:
    """One step with critic and reward model of the policy's size.

    Generation is one forward pass of the policy; scoring is one of the policy, the reference, the critic and the
    reward model each; an epoch trains policy and critic on every row.
    """
    tokens = sum(prompt + response for prompt, response in rows)
    sampled = sum(response for _, response in rows)
    trunk, head = size.trunk * tokens, size.head * sampled
    training = TRAIN_LORA if lora else TRAIN_FULL
    return Flops(
        generate=FORWARD * (trunk + head),
        score=FORWARD * (4 * trunk + 2 * head),
        update=num_epochs * training * (2 * trunk + head),
    )


def attention_share(size: Size, rows: Sequence[Row]) -> float:
    """What a causal forward pass's attention would add to its other FLOPs: 2 x layers x width x length^2 a row."""
    attention = sum(2 * size.layers * size.hidden * (prompt + response) ** 2 for prompt, response in rows)
    tokens = sum(prompt + response for prompt, response in rows)
    sampled = sum(response for _, response in rows)
    return attention / (FORWARD * (size.trunk * tokens + size.head * sampled))


def utilisation(flops: int, seconds: float, peak: float | None) -> float | None:
    """Model FLOP utilisation; None without a peak to compare with."""
    return None if peak is None else flops / seconds / peak


def peak_flops(device: str) -> float | None:
    """The device's published peak; None for one that is not listed."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device), None)


def geometric_lengths(count: int, shortest: int, longest: int) -> list[int]:
    """Lengths whose logarithms are evenly spaced; a fixed permutation of them, so that neighbours differ."""
    ratio = longest / shortest
    lengths = [round(shortest * ratio ** (place / max(1, count - 1))) for place in range(count)]
    stride = next(
        step for step in range(max(1, round(count * 0.618)), 2 * count + 1) if _coprime(step, count)
    )
    return [lengths[place * stride % count] for place in range(count)]


def stop_noise(lengths: Sequence[int], num_tokens: int) -> list[list[float]]:
    """Noise [B, T] in [0, 1) under which row b draws the stop token as its token lengths[b], and not before.

    A row as long as `num_tokens` draws none. So an engine learns where a row ends when it draws the token, no earlier.
    """
    draw = random.Random(0)
    noise = [[draw.uniform(LEAST_NOISE, 0.999) for _ in range(num_tokens)] for _ in lengths]
    for row, length in zip(noise, lengths, strict=True):
        if length < num_tokens:
            row[length - 1] = 0.0
    return noise


def _coprime(one: int, other: int) -> bool:
    while other:
        one, other = other, one % other
    return one == 1


def step_figures(known: dict[str, Any], seen: dict[str, Any], measured: slice) -> dict[str, Any]:
    """What PPO steps took.

    Args:
        known: as `bench_run.about` gives it.
        seen: the attributes of `bench_run.Watched`.
        measured: which of its steps count.
    """
    rows, metrics, clock = (seen[name][measured] for name in ("rows", "metrics", "seconds"))
    episodes = known["work"]["section"]["global_batch_size"]
    generate, score, source = _rollout_seconds(metrics, clock)
    seconds = {"generate": generate, "score": score, "update": [one["update"] for one in clock]}
    step_seconds = [episodes / each["eps"] for each in metrics]
    parts = [sum(each) for each in zip(*seconds.values(), strict=True)]
    floors = [_floor(known, each) for each in rows]
    tokens = [sum(response for _, response in each) for each in rows]
    peaks = [peak for name, peak in seen["peaks"].items() if name != "setup"]
    return {
        "step_seconds": step_seconds,
        "cpu_seconds": seen["cpu_seconds"][measured],
        "episodes_per_second": [each["eps"] for each in metrics],
        "first_step_seconds": episodes / seen["metrics"][0]["eps"],
        "generate_seconds": generate,
        "seconds_from": source,
        "mean_response_tokens": sum(tokens) / (episodes * len(rows)),
        "response_tokens": [sum(response for _, response in each) / episodes for each in seen["rows"]],
        "optimizer_steps": sum(each["policy/num_updates"] for each in metrics) / len(metrics),
        "attention_share": attention_share(known["size"], [row for each in rows for row in each]),
        "decode": {
            "tokens_per_second": [some / taken for some, taken in zip(tokens, generate, strict=True)],
            "floor_share": sum(floors) / sum(generate),
            "floor_tokens_per_second": sum(tokens) / sum(floors),
        },
        "phases": _phases(known, rows, seconds, seen["peaks"])
        | {
            "rest": _EMPTY
            | {"seconds": [whole - part for whole, part in zip(step_seconds, parts, strict=True)]}
        },
        "peak_allocated": max((allocated for allocated, _ in peaks), default=None),
        "peak_reserved": max((reserved for _, reserved in peaks), default=None),
        "metrics": seen["metrics"],
    }


def decode_figures(
    known: dict[str, Any],
    name: str,
    rows: list[Row],
    seconds: list[float],
    peak: tuple[int | None, int | None],
) -> dict[str, Any]:
    """What the engine alone took; the first of `seconds` is stated apart."""
    tokens = sum(response for _, response in rows)
    return {
        "lengths": name,
        "num_rows": len(rows),
        "num_tokens": tokens,
        "first_seconds": seconds[0],
        "seconds": seconds[1:],
        "tokens_per_second": [tokens / taken for taken in seconds[1:]],
        "floor_share": _floor(known, rows) / median(seconds[1:]),
        "peak_allocated": peak[0],
        "peak_reserved": peak[1],
    }


def _phases(
    known: dict[str, Any],
    rows: list[list[Row]],
    seconds: dict[str, list[float]],
    peaks: dict[str, tuple[int, int]],
) -> dict[str, dict[str, Any]]:
    num_epochs, lora = known["work"]["section"]["num_epochs"], known["work"]["is_lora"]
    flops = [step_flops(known["size"], each, num_epochs=num_epochs, lora=lora) for each in rows]
    phases: dict[str, dict[str, Any]] = {}
    for name, taken in seconds.items():
        done = sum(getattr(each, name) for each in flops)
        allocated, reserved = peaks.get(name, (None, None))
        phases[name] = {
            "seconds": taken,
            "flops": done / len(flops),
            "mfu": utilisation(done, known["processes"] * sum(taken), peak_flops(known["device"])),
            "peak_allocated": allocated,
            "peak_reserved": reserved,
        }
    return phases


def _floor(known: dict[str, Any], rows: list[Row]) -> float:
    return decode_floor_seconds(
        known["size"],
        rows,
        slots=known["slots"],
        bytes_per_value=known["bytes_per_value"],
        bytes_per_second=known["bytes_per_second"],
        processes=known["processes"],
    )


def _rollout_seconds(
    metrics: list[dict[str, float]], clock: list[dict[str, float]]
) -> tuple[list[float], list[float], str]:
    """Seconds of generating and scoring, and who measured them."""
    names = ("time/generate_seconds", "time/score_seconds")
    if all(name in each for each in metrics for name in names):
        generate, score = ([each[name] for each in metrics] for name in names)
        return generate, score, "the trainer's own metrics"
    generate = [each["generate"] for each in clock]
    score = [each["time/rollout_seconds"] - taken for each, taken in zip(metrics, generate, strict=True)]
    return generate, score, "from a clock around the engine; generate + score is time/rollout_seconds"
