"""How well the adaptive KL coefficient holds its target, and what score a nat of KL buys, beside best-of-n.

Runs `kl_plan`'s PPO runs through `rlhf run` (a run that is there is not repeated), reads their metrics, lets their
models answer the held-out prompts, and writes one JSON file, of which kl_report.py makes tables and figure. The
recipe's SFT and reward model must have been published.

usage: python recipes/movie_reviews/kl_study.py RECIPE --out FILE [--set KEY=VALUE]... [--jobs 2] [--samples 32] [--best-of 256]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from evaluate import Panel
from kl_measures import best_of_n_by_film, settling
from kl_plan import COMMON, FIXED_COEFS, Run, command, planned
from measures import NUM_RESAMPLES, Estimate, bootstrapped
from transformers.utils import logging as transformers_logging

from rlhf.durable import explain_write_errors, write_atomic
from rlhf.errors import RLHFError, UsageError
from rlhf.models.load import load_causal_lm
from rlhf.ppo.best_of_n import kl_of_best_of_n
from rlhf.recipe import Recipe, load_recipe
from rlhf.registry import Registry
from rlhf.stages.context import published_source
from rlhf.stages.inputs import METRICS_FILE, registry_folder, run_folder

SEED = 0
BATCH_SIZE = 176


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        kl, coef: [T] float64, each step's mean KL as sampled, nats a response, and the coefficient that it used.
        score, judged_kl: [F, S] float64, of answers to the held-out prompts.
    """

    run: Run
    kl: np.ndarray
    coef: np.ndarray
    score: np.ndarray
    judged_kl: np.ndarray


def main() -> int:
    """Run, measure, write."""
    arguments = _arguments()
    transformers_logging.disable_progress_bar()
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        run_all(planned(), recipe, arguments.recipe, arguments.overrides, jobs=arguments.jobs)
        report = measure(recipe, samples=arguments.samples, best_of=arguments.best_of)
        with explain_write_errors(arguments.out):
            write_atomic(arguments.out, _json(report).encode())
    except RLHFError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run_all(runs: Sequence[Run], recipe: Recipe, path: Path, overrides: Sequence[str], *, jobs: int) -> None:
    """Run them, `jobs` at once, one core each.

    Raises:
        UsageError: some failed; each with what it said last.
    """
    names = {"sft": recipe.artefact_name("sft"), "reward": recipe.artefact_name("reward")}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def finish(run: Run) -> str | None:
        done = subprocess.run(
            command(run, path, overrides, **names),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        print(f"{run.name}: {'done' if done.returncode == 0 else 'failed'}", flush=True)
        return None if done.returncode == 0 else f"{run.name}: {done.stderr[-1000:]}"

    with ThreadPoolExecutor(jobs) as pool:
        failed = [fault for fault in pool.map(finish, runs) if fault is not None]
    if failed:
        raise UsageError("\n".join(failed), "Call this again once that is put right: finished runs are kept.")


def measure(recipe: Recipe, *, samples: int, best_of: int) -> dict[str, object]:
    """What the runs show, as JSON.

    Args:
        samples: responses a held-out prompt of each run's model.
        best_of: responses a held-out prompt of the SFT model.
    """
    registry = Registry(registry_folder(recipe))
    sft, reward = (registry.open_verified(recipe.artefact_name(stage)) for stage in ("sft", "reward"))
    panel = Panel(recipe, sft, reward, samples=samples, seed=SEED, batch_size=BATCH_SIZE)
    outcomes = [_outcome(run, recipe, registry, panel) for run in planned()]
    wide = Panel(recipe, sft, reward, samples=best_of, seed=SEED, batch_size=BATCH_SIZE)
    before = wide.answers(wide.reference)
    num_films = len(before.score)
    draws = np.random.default_rng(SEED).integers(0, num_films, size=(NUM_RESAMPLES, num_films))
    return {
        "settings": COMMON,
        "num_prompts": num_films,
        "samples_per_prompt": samples,
        "sft": sft.reference,
        "reward_model": reward.reference,
        "sft_scores_std": float(before.score.std()),
        "adaptive": [_adaptive(outcome) for outcome in outcomes if outcome.run.target is not None],
        "frontier": [_point(outcomes, coef, draws) for coef in FIXED_COEFS],
        "best_of_n": {"num_answers": best_of, "points": _best_of_n(before.score, draws)},
    }


def _outcome(run: Run, recipe: Recipe, registry: Registry, panel: Panel) -> Outcome:
    """Metrics of the run, and its model's answers."""
    artefact = registry.open_verified(run.artefact)
    folder = run_folder(recipe.model_copy(update={"name": run.name})) / "ppo"
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    steps = [row for row in map(json.loads, lines) if "objective/kl" in row]
    policy = load_causal_lm(published_source(artefact), trainable=False).to(panel.device).eval()
    answers = panel.answers(policy)
    print(f"{run.name}: score {answers.score.mean():.3f}, KL {answers.kl.mean():.2f}", flush=True)
    return Outcome(
        run=run,
        kl=np.array([row["objective/kl"] for row in steps]),
        coef=np.array([row["objective/kl_coef"] for row in steps]),
        score=answers.score,
        judged_kl=answers.kl,
    )


def _adaptive(outcome: Outcome) -> dict[str, object]:
    """A run with the controller: its course, and how it settled."""
    run = outcome.run
    assert run.target is not None
    return {
        "target": run.target,
        "first_coef": run.coef,
        "seed": run.seed,
        "settling": asdict(settling(outcome.kl, run.target)),
        "score": outcome.score.mean(),
        "judged_kl": outcome.judged_kl.mean(),
        "kl": outcome.kl.round(3).tolist(),
        "coef": outcome.coef.round(5).tolist(),
    }


def _point(outcomes: Sequence[Outcome], coef: float, draws: np.ndarray) -> dict[str, object]:
    """One fixed coefficient: score and KL over its seeds' answers together, resampled by film."""
    ours = [outcome for outcome in outcomes if outcome.run.target is None and outcome.run.coef == coef]
    score, kl = (
        np.concatenate(tables, axis=1) for tables in zip(*((o.score, o.judged_kl) for o in ours), strict=True)
    )
    return {
        "coef": coef,
        "score": vars(_mean(score, draws)),
        "kl": vars(_mean(kl, draws)),
        "seeds": [
            {
                "seed": o.run.seed,
                "score": o.score.mean(),
                "kl": o.judged_kl.mean(),
                "course": o.kl.round(3).tolist(),
            }
            for o in ours
        ],
    }


def _best_of_n(scores: np.ndarray, draws: np.ndarray) -> list[dict[str, object]]:
    """n = 1, 2, 4 up to half of the answers a prompt."""
    counts = [2**power for power in range(scores.shape[1].bit_length() - 1)]
    by_film = {n: best_of_n_by_film(scores, n)[:, None] for n in counts}
    return [
        {"n": n, "kl": kl_of_best_of_n(n), "score": vars(_mean(table, draws))} for n, table in by_film.items()
    ]


def _mean(table: np.ndarray, draws: np.ndarray) -> Estimate:
    """Mean of [F, S] with its interval over films."""
    return bootstrapped(lambda films: float(table[films].mean()), draws)


def _json(report: dict[str, object]) -> str:
    """One line an entry of the outermost level: a run's course would take a line a number."""
    return (
        "{\n"
        + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in report.items())
        + "\n}\n"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Study KL control and the frontier of score against KL.")
    parser.add_argument("recipe", type=Path, help="the recipe that made SFT and reward model")
    parser.add_argument("--out", type=Path, required=True, help="write the numbers as JSON")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one core each")
    parser.add_argument("--samples", type=int, default=32, help="responses a prompt of each model")
    parser.add_argument("--best-of", type=int, default=256, help="responses a prompt of the SFT model")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
