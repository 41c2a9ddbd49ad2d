"""TRL 1.12's PPO, the last release that has one, on the work that scripts/bench_ppo.py wrote; runs without this package.

    python scripts/bench_peer.py WORK.json RESULT.json

Its trainer is left as it comes. Two differences follow from that: it makes one optimizer update in every so many
micro-batches as a whole step has rollouts for (so one an epoch), whatever `num_mini_batches` says, and it does not clip
gradients. Both save it time.
"""

import gc
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch


def main() -> None:
    """Train as the work says; the figures of the steps after the first."""
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        from trl.experimental.ppo import ppo_trainer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SystemExit(f"{sys.executable} has no PPO of TRL ({error}): it needs trl==1.12.*") from error
    if work["is_lora"]:
        raise SystemExit("the peer is run with full fine-tuning alone: leave out --lora")
    Path(sys.argv[2]).write_text(json.dumps(_measure(work, ppo_trainer)) + "\n", encoding="utf-8")


def _measure(work: dict[str, Any], module: Any) -> dict[str, Any]:
    import transformers
    import trl

    watch = _Watch(module, work["stop_ids"][0], transformers.TrainerCallback)
    trainer = _trainer(work, module, watch.callback)
    inner = trainer.optimizer.optimizer
    inner.register_step_post_hook(lambda *_: watch.count_update())
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    watch.mark()
    trainer.train()
    episodes = work["section"]["global_batch_size"]
    return watch.figures(episodes) | {
        "name": f"TRL {trl.__version__}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "peak_allocated": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "peak_reserved": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None,
    }


def _trainer(work: dict[str, Any], module: Any, callback: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig  # pyright: ignore[reportMissingImports]

    section, dtype = work["section"], getattr(torch, work["dtype"])
    micro = work["micro_batch"] or section["per_device_batch_size"]
    batch = section["global_batch_size"]
    tokenizer = AutoTokenizer.from_pretrained(work["policy"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(work["policy"], dtype=dtype) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(work["reward_model"], num_labels=1, dtype=dtype)
        for _ in range(2)
    )
    if section["gradient_checkpointing"]:
        value.gradient_checkpointing_enable()
    # One batch more than it will take: at the end of its data Accelerate makes every micro-batch an update.
    rows = Dataset.from_dict({"input_ids": [*work["prompts"], *work["prompts"][:batch]]})
    arguments = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        total_episodes=len(work["prompts"]),
        num_ppo_epochs=section["num_epochs"],
        num_mini_batches=section["num_minibatches"],
        local_rollout_forward_batch_size=section["per_device_rollout_batch_size"] or micro,
        response_length=section["sampling"]["max_new_tokens"],
        temperature=section["sampling"]["temperature"],
        stop_token_id=work["stop_ids"][0],
        learning_rate=section["learning_rate"],
        adam_epsilon=section["adam_eps"],
        weight_decay=section["weight_decay"],
        kl_coef=section["kl"]["coef"],
        gradient_checkpointing=section["gradient_checkpointing"],
        bf16=work["autocast"],
        use_cpu=not torch.cuda.is_available(),
        num_sample_generations=0,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
    )
    return module.PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=rows,
        eval_dataset=rows.select(range(1)),
        callbacks=[callback],
    )


class _Watch:
    """Seconds of steps and of generation, response lengths, optimizer updates."""

    def __init__(self, module: Any, stop_id: int, callback_class: type) -> None:
        self.stop_id = stop_id
        self.stamps: list[tuple[float, float]] = []
        self.generate: list[float] = [0.0]
        self.lengths: list[list[int]] = []
        self.num_updates = 0
        self.original = module.batch_generation
        module.batch_generation = self._generation
        watch = self

        class Stamp(callback_class):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                watch.mark()
                watch.generate.append(0.0)

        self.callback = Stamp()

    def mark(self) -> None:
        _wait()
        self.stamps.append((time.perf_counter(), time.process_time()))

    def count_update(self) -> None:
        self.num_updates += 1

    def figures(self, episodes: int) -> dict[str, Any]:
        walls, cpus = zip(*self.stamps, strict=True)
        seconds = [end - start for start, end in pairwise(walls)]
        cpu_seconds = [end - start for start, end in pairwise(cpus)]
        return {
            "step_seconds": seconds[1:],
            "cpu_seconds": cpu_seconds[1:],
            "first_step_seconds": seconds[0],
            "episodes_per_second": [episodes / each for each in seconds[1:]],
            "generate_seconds": self.generate[1 : len(seconds)],
            "mean_response_tokens": mean(row for step in self.lengths[1 : len(seconds)] for row in step),
            "response_tokens": [mean(step) for step in self.lengths[: len(seconds)]],
            "optimizer_steps": self.num_updates / len(seconds),
        }

    def _generation(self, model: Any, queries: torch.Tensor, *others: Any) -> Any:
        _wait()
        started = time.perf_counter()
        made, logits = self.original(model, queries, *others)
        _wait()
        self.generate[-1] += time.perf_counter() - started
        stops = made[:, queries.shape[1] :] == self.stop_id
        first = torch.where(stops.any(dim=1), stops.long().argmax(dim=1) + 1, stops.shape[1])
        self.lengths.append(first.tolist())
        return made, logits


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
