"""This recipe's own judge: did PPO do what it was asked, and at what price?

SFT and PPO model answer every held-out prompt many times, from noise that training never saw and that is the same for
both. Measured are the reward model's scores, what PPO could have paid for them (KL, variety, length, endings), and
VADER's compound score, a judge by rules that no stage uses. Films are what varies, so intervals are bootstrapped by
film: 95%, percentile. The same call gives the same numbers.

usage: python recipes/movie_reviews/evaluate.py RECIPE [--set KEY=VALUE]... [--ppo REFERENCE]... [--samples 32] [--out FILE]
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from measures import TITLES, Answers, Estimate, compare
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlhf.durable import explain_write_errors, write_atomic
from rlhf.errors import RLHFError, UsageError
from rlhf.models.forward import pad_left, score_token_lists
from rlhf.models.load import load_causal_lm, load_reward_model
from rlhf.models.tokenizer import load_tokenizer, stop_token_ids
from rlhf.ppo.actor_critic import response_logprobs
from rlhf.ppo.engines.base import Generation
from rlhf.ppo.engines.hf import HFEngine
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.episodes import pad_supports
from rlhf.ppo.noise import sampling_noise
from rlhf.ppo.prompts import Prompt
from rlhf.recipe import Recipe, load_recipe
from rlhf.registry import Artefact, Registry
from rlhf.stages.context import check_probe, published_source
from rlhf.stages.inputs import registry_folder
from rlhf.stages.tokens.prompts import prompts
from rlhf.stages.tokens.splits import recipe_split, token_folder

try:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
except ModuleNotFoundError:
    sys.exit("error: vaderSentiment is not installed\n  Install it: pip install -e '.[movie-reviews]'")

JUDGE_STREAM = 2
"""Noise of its own: training's rollouts draw from stream 0, its evaluations from stream 1."""


def main() -> int:
    """Sample, measure, print, write."""
    arguments = _arguments()
    transformers_logging.disable_progress_bar()
    try:
        report = judge(
            load_recipe(arguments.recipe, arguments.overrides),
            arguments.ppo,
            samples=arguments.samples,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
        )
        if arguments.out is not None:
            with explain_write_errors(arguments.out):
                write_atomic(arguments.out, (json.dumps(report, indent=1) + "\n").encode())
    except RLHFError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def judge(
    recipe: Recipe, references: Sequence[str], *, samples: int, seed: int, batch_size: int
) -> dict[str, object]:
    """Compare PPO artefacts with the SFT model they started from, by the reward model they were trained on.

    Args:
        references: PPO artefacts that share their parents, such as one a seed; empty: the recipe's latest.
        samples: responses a prompt.
        seed: of the noise.
        batch_size: rows sampled at once; changes nothing but speed and memory.

    Returns:
        What is written as JSON.

    Raises:
        RLHFError: an artefact that is missing or damaged, or parents that differ.
    """
    registry = Registry(registry_folder(recipe))
    trained = [registry.open_verified(name) for name in references or [recipe.artefact_name("ppo")]]
    sft, reward = (_parent(registry, trained, role) for role in ("policy", "reward_model"))
    panel = Panel(recipe, sft, reward, samples=samples, seed=seed, batch_size=batch_size)
    before = panel.answers(panel.reference)
    results: dict[str, dict[str, Estimate]] = {}
    for artefact in trained:
        policy = load_causal_lm(published_source(artefact), trainable=False).to(panel.device).eval()
        results[artefact.reference] = compare(before, panel.answers(policy), seed=seed)
    _print(results, panel)
    return {
        "sft": sft.reference,
        "reward_model": reward.reference,
        "num_prompts": len(panel.prompts),
        "samples_per_prompt": samples,
        "seed": seed,
        "sft_scores_std": float(before.score.std()),
        "ppo": {
            reference: {name: vars(estimate) for name, estimate in measures.items()}
            for reference, measures in results.items()
        },
    }


class Panel:
    """What all compared models share: prompts, noise, reward model, reference, VADER."""

    def __init__(
        self, recipe: Recipe, sft: Artefact, reward: Artefact, *, samples: int, seed: int, batch_size: int
    ) -> None:
        split, section = recipe_split(recipe, "ppo", "prompts.eval"), recipe.ppo
        assert section is not None
        if split is None:
            raise UsageError("the recipe has no held-out prompts", "Add data.prompts.eval.")
        self.section, self.samples, self.seed, self.batch_size = section, samples, seed, batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(sft.path)
        self.prompts = list(prompts(self.tokenizer, split, section, cache=token_folder(recipe)).rows)
        self.reference = load_causal_lm(published_source(sft), trainable=False).to(self.device).eval()
        self.reward_model = load_reward_model(published_source(reward)).to(self.device).eval()
        if reward.manifest.probe is not None:
            check_probe(self.reward_model, reward.manifest.probe, reward.reference)
        stop = section.sampling.stop
        self.engine = HFEngine(stop_texts=StopTexts(self.tokenizer, stop) if stop else None)
        self.vader = SentimentIntensityAnalyzer()

    def answers(self, policy: nn.Module) -> Answers:
        """Let a model answer every prompt, and measure each answer."""
        jobs = [(prompt, sample) for prompt in self.prompts for sample in range(self.samples)]
        stop_ids = stop_token_ids(self.tokenizer, getattr(policy.generation_config, "eos_token_id", None))
        kl: list[float] = []
        responses: list[list[int]] = []
        unfinished: list[bool] = []
        for start in range(0, len(jobs), self.batch_size):
            part_kl, part = self._sample(policy, jobs[start : start + self.batch_size], stop_ids)
            kl += part_kl
            responses += [
                ids[kept].tolist() for ids, kept in zip(part.response_ids, part.response_mask, strict=True)
            ]
            unfinished += [reason == "length" for reason in part.finish_reasons]
        scores = score_token_lists(
            self.reward_model,
            [prompt.token_ids + ids for (prompt, _), ids in zip(jobs, responses, strict=True)],
            batch_size=self.batch_size,
        )
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in responses]
        return Answers(
            score=self._table(scores),
            kl=self._table(kl),
            length=self._table([len(ids) for ids in responses]),
            unfinished=self._table(unfinished),
            compound=self._table([self.vader.polarity_scores(str(text))["compound"] for text in texts]),
            token_ids=[
                responses[start : start + self.samples] for start in range(0, len(responses), self.samples)
            ],
        )

    @torch.no_grad()
    def _sample(
        self, policy: nn.Module, jobs: Sequence[tuple[Prompt, int]], stop_ids: tuple[int, ...]
    ) -> tuple[list[float], Generation]:
        """KL of each response from the SFT model, and the responses."""
        sampling = self.section.sampling
        prompt_ids, prompt_mask = pad_left([prompt.token_ids for prompt, _ in jobs], self.device)
        noise = sampling_noise(
            self.seed,
            0,
            [prompt.prompt_id for prompt, _ in jobs],
            [sample for _, sample in jobs],
            sampling.max_new_tokens,
            stream=JUDGE_STREAM,
        )
        generation = self.engine.generate(
            policy,
            [prompt.token_ids for prompt, _ in jobs],
            torch.from_numpy(noise),
            temperature=sampling.temperature,
            stop_ids=stop_ids,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
        mask = generation.response_mask
        input_ids = torch.cat([prompt_ids, generation.response_ids], dim=1)
        attention_mask = torch.cat([prompt_mask, mask], dim=1)
        support = None
        if generation.support is not None:
            support = pad_supports(list(generation.support), mask.shape[1]).to(self.device)
        ours, theirs = (
            response_logprobs(
                model, input_ids, attention_mask, mask, support, temperature=sampling.temperature
            )[0]
            for model in (policy, self.reference)
        )
        return ((ours - theirs) * mask).sum(dim=1).tolist(), generation

    def _table(self, values: Sequence[float]) -> np.ndarray:
        return np.array(values, dtype=float).reshape(len(self.prompts), self.samples)


def _parent(registry: Registry, trained: Sequence[Artefact], role: str) -> Artefact:
    """The artefact that all of these were trained from (`policy`) or on (`reward_model`), every byte proved."""
    parents = [parent for artefact in trained for parent in artefact.manifest.parents if parent.role == role]
    names = ", ".join(sorted({parent.reference for parent in parents})) or "none"
    if len(parents) < len(trained) or len({parent.digest for parent in parents}) != 1:
        raise UsageError(
            f"{', '.join(a.reference for a in trained)}: one common {role} in the registry is needed, they have: {names}",
            "Compare PPO artefacts of one recipe that differ in nothing but PPO's own settings.",
        )
    return registry.open_verified(parents[0].reference)


def _print(results: Mapping[str, Mapping[str, Estimate]], panel: Panel) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{len(panel.prompts)} held-out prompts x {panel.samples} samples [95%]")
    for reference in results:
        table.add_column(reference, justify="right")
    for name, title in TITLES.items():
        table.add_row(title, *(str(measures[name]) for measures in results.values()))
    Console(highlight=False).print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare PPO models with the SFT model on held-out prompts.")
    parser.add_argument("recipe", type=Path, help="the recipe that made them")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--ppo", action="append", default=[], metavar="REFERENCE", help="name@version; the latest if left out"
    )
    parser.add_argument("--samples", type=_count, default=32, help="responses a prompt")
    parser.add_argument("--seed", type=int, default=0, help="of noise and resampling")
    parser.add_argument("--batch-size", type=_count, default=176, help="responses sampled at once")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
