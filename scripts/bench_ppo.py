"""How fast PPO is: decoding beside its memory-bandwidth floor, seconds, FLOP utilisation and memory of each phase.

    python scripts/bench_ppo.py --shape 0.5b --episodes 256 --epochs 4 --minibatches 4 --batch 32 --rollout-batch 64
    python scripts/bench_ppo.py --shape 0.5b --decode-only [--lengths geometric --min 16 --max 512 --prompts 1024]
    python scripts/bench_ppo.py --recipe RECIPE --peer trl --peer-python PYTHON --rounds 3

Runs the product's own PPO stage: its engine, scoring, rollout records and metrics, with stop tokens looked for and one
prompt in 16 half as long as the others. A shape is Qwen2.5's with random weights; a recipe's PPO runs on the newest SFT
and reward models of its workspace. Everything of the recipe can be changed by `--set`. `--peer trl` then gives TRL
1.12's PPO the same models, prompts and settings, in turn. Under torchrun processes train together on all `--episodes`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench_figures import geometric_lengths
from memory_shapes import BACKBONES, SHAPES

if TYPE_CHECKING:
    from rlhf.stages.context import StageContext

_SHORT_EVERY = 16
_GIB = 2**30
_RANK = int(os.environ.get("RANK", "0"))


def main() -> None:
    """Measure, print."""
    arguments = _arguments().parse_args()
    if "RANK" in os.environ and (arguments.recipe or arguments.peer):
        raise SystemExit("under torchrun a shape is measured, alone: leave out --recipe and --peer")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if arguments.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    beside = arguments.peer is not None and not arguments.inner
    measure = _beside_peer if beside else _decode if arguments.decode_only else _steps
    result = measure(arguments)
    if arguments.json is not None and _RANK == 0:
        arguments.json.write_text(json.dumps(result, indent=1, default=vars) + "\n", encoding="utf-8")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--shape", choices=SHAPES, default="tiny")
    what.add_argument(
        "--recipe", type=Path, help="measure this recipe's PPO; batch and lengths are the recipe's"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--warmup", type=int, default=1, help="steps that do not count")
    parser.add_argument("--steps", type=int, default=3, help="steps, or rounds of decoding, that count")
    parser.add_argument("--threads", type=int, help="CPU threads of each side")
    parser.add_argument("--profile", type=Path, help="profile one more step or round into this file")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench_ppo")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    batch = parser.add_argument_group("a shape's batch")
    batch.add_argument("--episodes", type=int, default=256, help="responses in one step")
    batch.add_argument("--prompt-tokens", type=int, default=128)
    batch.add_argument("--response-tokens", type=int, default=128)
    batch.add_argument("--epochs", type=int, default=4)
    batch.add_argument("--minibatches", type=int, default=4)
    batch.add_argument("--batch", type=int, default=32, help="responses in one forward and backward pass")
    batch.add_argument("--rollout-batch", type=int, default=64, help="responses in one generation pass")
    batch.add_argument("--lora", action="store_true", help="adapters in place of all weights")
    batch.add_argument("--gradient-checkpointing", action="store_true")
    batch.add_argument("--backbone", choices=BACKBONES, default="separate")
    batch.add_argument("--engine", help="the recipe's ppo.sampling.engine")
    batch.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of trained weights"
    )
    decode = parser.add_argument_group("the engine alone")
    decode.add_argument("--decode-only", action="store_true")
    decode.add_argument("--lengths", choices=("equal", "geometric"), default="equal")
    decode.add_argument("--min", type=int, default=16, help="shortest response of geometric lengths")
    decode.add_argument("--max", type=int, default=512, help="longest response of geometric lengths")
    decode.add_argument("--prompts", type=int, help="rows; --episodes where left out")
    decode.add_argument(
        "--rows-per-call", type=int, help="rows given to the engine at a time; all where left out"
    )
    peer = parser.add_argument_group("a peer")
    peer.add_argument("--peer", choices=("trl",), help="needs trl 1.12")
    peer.add_argument("--peer-python", default=sys.executable, help="that can import it")
    peer.add_argument("--peer-path", default="", help="a folder that the peer alone imports from first")
    peer.add_argument("--peer-batch", type=int, help="as --batch, of the peer; the same where left out")
    peer.add_argument("--rounds", type=int, default=1, help="of both sides in turn")
    return parser


def _steps(arguments: argparse.Namespace) -> dict[str, Any]:
    from bench_run import measure_steps

    context = _context(arguments, steps=arguments.warmup + arguments.steps + (arguments.profile is not None))
    result = measure_steps(context, warmup=arguments.warmup, profile=arguments.profile)
    result["title"] = _title(arguments, result)
    print(step_table(result) if _RANK == 0 else "", flush=True)
    return result


def _decode(arguments: argparse.Namespace) -> dict[str, Any]:
    from bench_run import measure_decode

    num_rows = arguments.prompts or arguments.episodes
    lengths = {f"{arguments.response_tokens} each": [arguments.response_tokens] * num_rows}
    if arguments.lengths == "geometric":
        spread = geometric_lengths(num_rows, arguments.min, arguments.max)
        mean = round(sum(spread) / num_rows)
        lengths = {
            f"{mean} each": [mean] * num_rows,
            f"geometric, {arguments.min} to {arguments.max}": spread,
        }
        arguments.response_tokens = arguments.max
    context = _context(arguments, steps=1)
    rows_per_call = arguments.rows_per_call or num_rows
    result = measure_decode(
        context, lengths, rows_per_call=rows_per_call, rounds=arguments.steps, profile=arguments.profile
    )
    result["title"] = _title(arguments, result)
    print(f"{result['title']}\n\n{decode_table(result['runs'])}", flush=True)
    return result


def _beside_peer(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each side in processes of its own, so that neither finds the other's memory or warm caches."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    ours, peers = (arguments.folder / f"{side}.json" for side in ("ours", "peer"))
    work = arguments.folder / "work.json"
    given = [*sys.argv[1:], "--inner", f"--json={ours}"]
    path = os.pathsep.join(filter(None, [arguments.peer_path, os.environ.get("PYTHONPATH", "")]))
    result: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(arguments.rounds):
        subprocess.run([sys.executable, __file__, *given], check=True)
        result["ours"].append(json.loads(ours.read_text(encoding="utf-8")))
        given_work = result["ours"][-1]["work"] | {"micro_batch": arguments.peer_batch}
        work.write_text(json.dumps(given_work), encoding="utf-8")
        script = Path(__file__).with_name("bench_peer.py")
        with (arguments.folder / "peer.log").open("w", encoding="utf-8") as log:
            command = [arguments.peer_python, str(script), str(work), str(peers)]
            subprocess.run(command, check=True, stdout=log, env=os.environ | {"PYTHONPATH": path})
        result["peer"].append(json.loads(peers.read_text(encoding="utf-8")))
    print("\n" + peer_table(result["ours"], result["peer"]), flush=True)
    return result


def _context(arguments: argparse.Namespace, *, steps: int) -> "StageContext":
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    overrides = [*arguments.set, f"ppo.num_steps={steps}"]
    overrides += [f"ppo.sampling.engine={arguments.engine}"] if arguments.engine is not None else []
    overrides += [f"ppo.dtype={arguments.dtype}"] if arguments.dtype != "float32" else []
    if arguments.recipe is not None:
        from memory_setting import recipe_context

        arguments.folder.mkdir(parents=True, exist_ok=True)
        return recipe_context(arguments.recipe, overrides, Path(tempfile.mkdtemp(dir=arguments.folder)))
    return _shape_context(arguments, steps, tuple(overrides))


def _shape_context(arguments: argparse.Namespace, steps: int, overrides: tuple[str, ...]) -> "StageContext":
    from memory_setting import Setting, prepare_context

    setting = Setting(
        backbone=arguments.backbone,
        steps=steps,
        global_batch_size=arguments.episodes,
        batch_size=arguments.batch,
        rollout_batch_size=arguments.rollout_batch,
        prompt_tokens=arguments.prompt_tokens,
        response_tokens=arguments.response_tokens,
        num_prompts=arguments.episodes * steps,
        num_minibatches=arguments.minibatches,
        num_epochs=arguments.epochs,
        lora=arguments.lora,
        gradient_checkpointing=arguments.gradient_checkpointing,
        short_every=_SHORT_EVERY,
        overrides=overrides,
    )
    folder = arguments.folder / arguments.shape
    folder.mkdir(parents=True, exist_ok=True)
    return prepare_context(folder, SHAPES[arguments.shape], setting)


def _title(arguments: argparse.Namespace, result: dict[str, Any]) -> str:
    section, work = result["work"]["section"], result["work"]
    kind = "LoRA" if work["is_lora"] else "full"
    precision = f"{work['dtype']} weights{', bfloat16 autocast' if work['autocast'] else ''}"
    return (
        f"{arguments.recipe or arguments.shape}, {kind}, {section['backbone']} backbone, {precision}, {result['engine']}; "
        f"{section['global_batch_size']} episodes of at most {section['sampling']['max_new_tokens']} tokens, "
        f"{section['num_epochs']} epochs, {section['num_minibatches']} minibatches, micro-batch "
        f"{section['per_device_batch_size']}, rollout batch {result['slots']}; {result['processes']} x {result['device']}, torch {result['torch']}, "
        f"{result['threads']} threads"
    )


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, with lowest and highest where there are several."""
    middle = f"{median(values):,.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def step_table(result: dict[str, Any]) -> str:
    """One run of PPO steps in Markdown.

    Args:
        result: as `bench_run.measure_steps` gives it.
    """
    decode, rows = result["decode"], [_phase_row(name, phase) for name, phase in result["phases"].items()]
    rate, seconds = spread(result["episodes_per_second"]), spread(result["step_seconds"])
    floor = f"{decode['floor_tokens_per_second']:,.0f} tokens/s at {result['bytes_per_second'] / 1e9:,.0f} GB/s measured"
    lines = [
        result["title"],
        "",
        f"- {rate} episodes/s, {seconds} s a step; {result['mean_response_tokens']:.1f} tokens a response",
        f"- first step {result['first_step_seconds']:.2f} s: compilation, capture, first allocations are in it alone",
        f"- decoding {spread(decode['tokens_per_second'], 0)} tokens/s, {_percent(decode['floor_share'])} of the floor ({floor})",
        f"- attention's products are left out of FLOPs; forward they would add {_percent(result['attention_share'])}",
        f"- seconds of generate and score are {result['seconds_from']}",
        "",
        "| phase | seconds | TFLOPs | MFU | peak allocated, GiB | peak reserved, GiB |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *rows])


def decode_table(results: list[dict[str, Any]]) -> str:
    """Runs of the engine alone in Markdown, the first one's rate as the measure of the others."""
    first = median(results[0]["tokens_per_second"])
    lines = [
        "| lengths | rows | tokens | first, s | seconds | tokens/s | of the floor | of the first line | allocated, GiB | reserved, GiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        rate = median(result["tokens_per_second"])
        lines.append(
            f"| {result['lengths']} | {result['num_rows']} | {result['num_tokens']} | {result['first_seconds']:.2f} | "
            f"{spread(result['seconds'], 3)} | {spread(result['tokens_per_second'], 0)} | "
            f"{_percent(result['floor_share'])} | {_percent(rate / first)} | "
            f"{_gib(result['peak_allocated'])} | {_gib(result['peak_reserved'])} |"
        )
    return "\n".join(lines)


def peer_table(ours: list[dict[str, Any]], peers: list[dict[str, Any]]) -> str:
    """Both sides' rounds in Markdown, with the ratio of each round.

    Args:
        ours: at least one of `bench_run.measure_steps`.
        peers: as many of `bench_peer`.
    """
    sides = [("rlhf-stages", ours), (peers[0]["name"], peers)]
    lines = [
        "| | episodes/s | CPU s a step | generation, s a step | response tokens | updates a step | peak reserved, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in sides:
        reserved = max((run["peak_reserved"] or 0 for run in runs), default=0)
        parts = ("episodes_per_second", "cpu_seconds", "generate_seconds")
        measured = [spread([median(run[part]) for run in runs]) for part in parts]
        lengths = spread([run["mean_response_tokens"] for run in runs], 1)
        updates = spread([run["optimizer_steps"] for run in runs], 0)
        lines.append(f"| {name} | {' | '.join([*measured, lengths, updates, _gib(reserved or None)])} |")
    rates = [[median(run["episodes_per_second"]) for run in runs] for _, runs in sides]
    work = [[median(run["cpu_seconds"]) for run in runs] for _, runs in sides]
    ratios = spread([mine / theirs for mine, theirs in zip(*rates, strict=True)])
    cpu = spread([theirs / mine for mine, theirs in zip(*work, strict=True)])
    return "\n".join([*lines, "", f"Ratio of episodes/s: {ratios}; of episodes a CPU second: {cpu}."])


def _phase_row(name: str, phase: dict[str, Any]) -> str:
    tera = "–" if phase["flops"] is None else f"{phase['flops'] / 1e12:.2f}"
    return (
        f"| {name} | {spread(phase['seconds'])} | {tera} | {_percent(phase['mfu'])} | "
        f"{_gib(phase['peak_allocated'])} | {_gib(phase['peak_reserved'])} |"
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _gib(num_bytes: int | None) -> str:
    return "–" if num_bytes is None else f"{num_bytes / _GIB:.2f}"


if __name__ == "__main__":
    main()
