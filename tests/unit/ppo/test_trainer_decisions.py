"""What the trainer decides from evaluations, across stops: what is published, when it ends, what its state holds."""

import io

import pytest
import torch
from test_evaluation import LengthJudge, evaluator_of
from tiny_ppo import PROMPTS, TinyPPO, section_of, tiny_lm

from rlhf.errors import CheckpointError
from rlhf.ppo.ema import PolicyEMA
from rlhf.ppo.nonfinite import NonFiniteError
from rlhf.ppo.prompts import PromptStream
from rlhf.ppo.rewards import ScoreShaping
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.watch import Watch


class MemorySink:
    """Keeps everything in memory; a checkpoint is bytes."""

    def __init__(self, tiny, stop_at=None):
        self.tiny = tiny
        self.stop_at = stop_at
        self.lines = []
        self.saved = {}
        self.offending = []
        self.trainer = None

    def log(self, step, metrics):
        times = (
            "eps",
            "time/rollout_seconds",
            "time/generate_seconds",
            "time/score_seconds",
            "time/update_seconds",
        )
        self.lines.append((step, {name: value for name, value in metrics.items() if name not in times}))

    def record(self, step, rollout, computed, kl_coef):
        pass

    def record_offending(self, step, rollout, rows):
        self.offending.append((step, rows))

    def table(self, step, evaluation):
        pass

    def save_if_due(self, step, *, due, keep_steps):
        stop = step == self.stop_at
        if due or stop:
            self.saved = {kept: state for kept, state in self.saved.items() if kept in keep_steps}
            file = io.BytesIO()
            parts = (self.tiny.model, self.tiny.optimizer, self.trainer)
            torch.save([part.state_dict() for part in parts], file)
            self.saved[step] = file.getvalue()
        return stop

    def restore(self, step):
        states = torch.load(io.BytesIO(self.saved[step]), weights_only=False)
        for part, state in zip((self.tiny.model, self.tiny.optimizer, self.trainer), states, strict=True):
            part.load_state_dict(state)


KNOBS = {
    "num_steps": 8,
    "eval_every_steps": 1,
    "learning_rate": 0.02,
    "evaluation": {"samples_per_prompt": 2, "select_best": "eval/scores", "patience": 2, "best_of_n": 3},
    "kl": {"coef": 0.1, "target": 0.5, "horizon": 100},
    "shaping": {"normalize": "running"},
}


def trainer_of(stop_at=None, **changes):
    section = section_of(**KNOBS | changes)
    tiny = TinyPPO(section)
    sink = MemorySink(tiny, stop_at)
    trainer = sink.trainer = PPOTrainer(
        section,
        accelerator=tiny.accelerator,
        model=tiny.model,
        collector=tiny.collector,
        updater=tiny.updater,
        prompts=PromptStream(PROMPTS, seed=11, num_per_step=8),
        shaping=ScoreShaping(section.shaping),
        sink=sink,
        watch=Watch(section.watch, critic_warmup_steps=0),
        evaluator=evaluator_of(tiny, gold=LengthJudge()),
        ema=PolicyEMA(tiny.policy, decay=section.ema_decay) if section.ema_decay else None,
    )
    return trainer, sink


def published(trainer):
    with trainer.published_weights():
        return trainer.published_metrics(), {n: w.clone() for n, w in trainer.model.state_dict().items()}


def assert_same(one, other):
    assert one[0] == other[0]
    assert all(value.equal(other[1][name]) for name, value in one[1].items())


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_run_that_was_stopped_decides_and_publishes_as_the_whole_one(ema_decay):
    whole, seen = trainer_of(ema_decay=ema_decay)
    assert whole.train()
    scores = [(step, line["eval/scores"]) for step, line in seen.lines if "eval/scores" in line]
    best_step, best = max(scores, key=lambda pair: pair[1])
    assert scores[-1][0] == best_step + 2, "patience ends it two evaluations after the best"
    assert scores[-1][0] < 8
    assert whole.published_metrics()["eval/scores"] == best
    assert whole.step == best_step, "the best weights are loaded at the end"
    for stop_at in (best_step, best_step + 1):
        first, sink = trainer_of(stop_at, ema_decay=ema_decay)
        assert not first.train()
        second, again = trainer_of(ema_decay=ema_decay)
        again.saved = sink.saved
        again.restore(stop_at)
        assert second.train()
        assert sink.lines + again.lines == seen.lines
        assert_same(published(second), published(whole))


def test_the_published_weights_have_the_published_metrics():
    trainer, _ = trainer_of(ema_decay=0.5)
    assert trainer.train()
    with trainer.published_weights():
        metrics = trainer.evaluator.evaluate(trainer.model).metrics
    assert metrics == trainer.selection.published.metrics


def test_stopped_after_the_end_nothing_is_trained_again():
    whole, sink = trainer_of()
    assert whole.train()
    last = max(sink.saved)
    assert sorted(sink.saved) == [whole.step, last], "the best and the newest are kept"
    again, later = trainer_of()
    later.saved = sink.saved
    later.restore(last)
    assert again.train()
    assert later.lines == []
    assert_same(published(again), published(whole))


def test_over_the_kl_budget_training_ends_and_the_best_within_it_is_published():
    evaluation = {"samples_per_prompt": 2, "select_best": "eval/scores", "kl_budget": 1e-9}
    trainer, sink = trainer_of(evaluation=evaluation)
    trainer.collector.reference = tiny_lm(seed=0)
    assert trainer.train()
    assert max(step for step, _ in sink.lines) == 1
    assert trainer.selection.published.step == trainer.step == 0


def test_line_29_a_missing_piece_of_state_is_named():
    trainer, _ = trainer_of(ema_decay=0.5)
    trainer.evaluate()
    for name in ("step", "kl", "shaping", "watch", "selection", "evaluator", "ema"):
        state = trainer.state_dict()
        del state[name]
        with pytest.raises(CheckpointError, match=name):
            trainer.load_state_dict(state)
    with pytest.raises(CheckpointError, match="ema"):
        trainer.load_state_dict(trainer.state_dict() | {"ema": None})


def test_evaluation_changes_nothing_in_training():
    often, rarely = (trainer_of(eval_every_steps=n, evaluation={"best_of_n": 3 * n}) for n in (1, 8))
    lines = []
    for trainer, sink in (often, rarely):
        trainer.section = trainer.section.model_copy(update={"num_steps": 3})
        assert trainer.train()
        lines.append([line for line in sink.lines if "objective/kl" in line[1]])
    assert len(lines[0]) == 3
    assert lines[0] == lines[1]


def test_the_rows_of_a_failed_update_are_handed_over():
    trainer, sink = trainer_of()

    def fail(*_, **__):
        raise NonFiniteError("loss nan", step=0, rows=[2, 5], sft_rows=[])

    trainer.updater.update = fail
    with pytest.raises(NonFiniteError):
        trainer.train()
    assert sink.offending == [(1, [2, 5])]
