"""The figures of scripts/bench_memory.py as a line a run and as tables in Markdown."""

from typing import Any

_GIB = 2**30


def line(result: dict[str, Any]) -> str:
    """One run, for the terminal."""
    name, record = f"{result['shape']} {result['setting']['backbone']}", result["record"]
    expected = f"{_gib(result['expected_state_bytes'])} by arithmetic"
    if record is None or not result["fits"]:
        return f"{name}: does not fit ({result['reason']}); weights, gradients and optimizer {expected}"
    held = " + ".join(_gib(record[f"{kind}_bytes"]) for kind in ("weight", "gradient", "optimizer"))
    phases = ", ".join(
        f"{phase} {_gib(figures['peak_allocated'])} (reserved {_gib(figures['peak_reserved'])}) {figures['seconds'][-1]:.1f} s"
        for phase, figures in record["phases"].items()
    )
    host = _gib(record["host_peak_bytes"])
    return (
        f"{name}: weights + gradients + optimizer {held} = {_gib(record['state_bytes'])} GiB ({expected}); "
        f"peak GiB: {phases}; {record['num_updates']} updates; host {host} GiB"
    )


def table(results: list[dict[str, Any]]) -> str:
    """All runs, and for each shape the shared backbone's share of what separate models take.

    Args:
        results: at least one; of each shape at most one run a backbone.
    """
    first = results[0]
    setting = first["setting"]
    batches = (
        f"micro-batch {setting['batch_size']}, rollout batch {setting['rollout_batch_size']}, "
        f"global batch {setting['global_batch_size']}"
    )
    tokens = f"{setting['prompt_tokens']} + {setting['response_tokens']} tokens, {setting['steps']} steps"
    rows = [
        f"{first['device']}, torch {first['torch']}; {batches}, {tokens}. GiB; seconds of the last step.",
        "",
        "| shape | backbone | weights | gradients | optimizer | the three | peak allocated | peak reserved | rollout s | update s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(result) for result in results),
        "",
        "| shape | shared / separate: weights, gradients, optimizer | shared / separate: peak allocated |",
        "|---|---|---|",
    ]
    for shape in dict.fromkeys(result["shape"] for result in results):
        by_backbone = {r["setting"]["backbone"]: r for r in results if r["shape"] == shape}
        shares = [share(by_backbone, name) for name in ("state_bytes", "peak_allocated")]
        rows.append(f"| {shape} | {' | '.join(shares)} |")
    return "\n".join(rows)


def share(by_backbone: dict[str, dict[str, Any]], name: str) -> str:
    """What the shared backbone takes of what separate models take, in percent; a dash where one was not measured."""
    measured = [by_backbone.get(backbone) for backbone in ("shared", "separate")]
    values = [result["record"][name] for result in measured if result is not None and result["fits"]]
    if len(values) < 2 or not all(values):
        return "–"
    return f"{100 * values[0] / values[1]:.1f}%"


def _row(result: dict[str, Any]) -> str:
    name, record = f"| {result['shape']} | {result['setting']['backbone']}", result["record"]
    if record is None or not result["fits"]:
        expected = f"{_gib(result['expected_state_bytes'])}: does not fit ({result['reason']})"
        return f"{name} | | | | {expected} | | | | |"
    held = [_gib(record[f"{kind}_bytes"]) for kind in ("weight", "gradient", "optimizer", "state")]
    reserved = max((phase["peak_reserved"] or 0 for phase in record["phases"].values()), default=0)
    seconds = [f"{record['phases'][phase]['seconds'][-1]:.1f}" for phase in ("rollout", "update")]
    return (
        f"{name} | {' | '.join([*held, _gib(record['peak_allocated']), _gib(reserved or None), *seconds])} |"
    )


def _gib(num_bytes: int | None) -> str:
    return "–" if num_bytes is None else f"{num_bytes / _GIB:.2f}"
