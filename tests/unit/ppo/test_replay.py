"""A recorded rollout gives the update that the sampled one gave, to the bit; what does not fit is refused."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from tiny_ppo import PROMPTS, VOCAB, TinyPPO, made_up_targets, section_of

from rlhf.errors import DataError, UsageError
from rlhf.ppo.episodes import collate
from rlhf.ppo.noise import EVALUATION_STREAM, ROLLOUT_STREAM
from rlhf.ppo.replay import RecordedRollouts, ReplayCollector
from rlhf.stages.offending import write_offending
from rlhf.stages.rollout_records import write_rollout


class Letters:
    """Stands in for a tokenizer."""

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(f"t{token}" for token in ids)


def context_of(folder, bootstrap):
    return SimpleNamespace(
        folder=folder,
        inputs=SimpleNamespace(policy=SimpleNamespace(reference="tiny-sft@1", path=None)),
        scored_by="tiny-reward@1",
        recipe=SimpleNamespace(
            stage_seed=lambda stage: 11, ppo=SimpleNamespace(bootstrap_truncated=bootstrap)
        ),
    )


def record(folder, rollout, *, step=1, num_ranks=2, bootstrap=True):
    """Writes a step as `num_ranks` processes would; returns the folder of the shards."""
    advantages, returns = made_up_targets(rollout)
    computed = {
        "shaped": rollout.scores,
        "rewards": advantages,
        "advantages": advantages,
        "returns": returns,
    }
    for rank in range(num_ranks):
        write_rollout(
            context_of(folder, bootstrap),
            Letters(),
            rollout,
            computed,
            step=step,
            kl_coef=0.05,
            rank=rank,
            num_ranks=num_ranks,
        )
    return folder / "rollouts"


def marked(rollout):
    """The rollout with metadata, two sources' scores, a stop text and a bootstrap value, as a richer run has them."""
    first = dataclasses.replace(
        rollout.episodes[0],
        metadata={"topic": "films", "nested": [1, None]},
        scores={"rm": 0.1, "length": 1 / 3},
        finish_reason="stop",
        bootstrap_value=0.7,
    )
    return collate([first, *rollout.episodes[1:]])


def replay_of(ppo, folder, **changes):
    return ReplayCollector(ppo.collector, RecordedRollouts(folder), section_of(**changes))


def collect(collector, ppo, step=0, stream=ROLLOUT_STREAM):
    batch = [(prompt, 0) for prompt in PROMPTS]
    return collector.collect(ppo.model, batch, step, stream=stream, temperature=0.7)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_an_update_on_a_recording_gives_the_same_weights_to_the_bit(tmp_path, num_ranks):
    changes = {"num_minibatches": 2, "num_epochs": 2}
    sampled = TinyPPO(section_of(**changes))
    rollout = sampled.collect()
    folder = record(tmp_path, rollout, num_ranks=num_ranks)
    before = sampled.weights()
    sampled.updater.update(rollout, *made_up_targets(rollout), 0)

    replayed = TinyPPO(section_of(**changes))
    again = collect(replay_of(replayed, folder), replayed)
    replayed.updater.update(again, *made_up_targets(again), 0)

    expected, got = sampled.weights(), replayed.weights()
    assert any(not torch.equal(before[name], expected[name]) for name in before)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_everything_of_an_episode_but_its_support_comes_back(tmp_path):
    rollout = marked(TinyPPO(section_of()).collect())
    episodes = RecordedRollouts(record(tmp_path, rollout)).step(0)
    assert [episode.index for episode in episodes] == list(range(8))
    for got, expected in zip(episodes, rollout.episodes, strict=True):
        for field in dataclasses.fields(expected):
            name = field.name
            if name == "scores":
                assert got.scores == (expected.scores or {"reward_model": expected.score})
            elif isinstance(getattr(expected, name), np.ndarray):
                assert np.array_equal(getattr(got, name), getattr(expected, name)), name
                assert getattr(got, name).dtype == np.float32
            else:
                assert getattr(got, name) == getattr(expected, name), name


def test_records_load_as_a_data_set(tmp_path):
    rollout = marked(TinyPPO(section_of()).collect())
    folder = record(tmp_path, rollout)
    files = sorted(str(path) for path in folder.glob("*.parquet"))
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 8
    first = next(row for row in rows if row["prompt_id"] == 0)
    assert first["metadata"] == '{"topic": "films", "nested": [1, null]}'
    assert first["finish_reason"] == "stop"
    assert first["response_ids"] == rollout.episodes[0].response_ids


def test_values_after_a_cut_that_were_not_recorded_are_missed(tmp_path):
    folder = record(tmp_path, TinyPPO(section_of()).collect(), bootstrap=False)
    assert len(RecordedRollouts(folder).step(0)) == 8
    with pytest.raises(UsageError, match="recorded without"):
        RecordedRollouts(folder).step(0, with_bootstrap=True)


def test_evaluation_samples_as_ever(tmp_path):
    ppo = TinyPPO(section_of())
    folder = record(tmp_path, ppo.collect())
    expected = collect(ppo.collector, ppo, stream=EVALUATION_STREAM)
    got = collect(replay_of(ppo, folder), ppo, stream=EVALUATION_STREAM)
    assert torch.equal(got.response_ids, expected.response_ids)
    assert not torch.equal(got.response_ids, collect(replay_of(ppo, folder), ppo).response_ids)


def test_a_step_that_was_not_recorded_is_named_with_those_that_were(tmp_path):
    ppo = TinyPPO(section_of())
    folder = record(tmp_path, ppo.collect())
    record(tmp_path, ppo.collect(), step=2)
    collect(replay_of(ppo, folder), ppo, step=1)
    with pytest.raises(UsageError, match=r"no rollouts of step 3\n  It holds steps 1 to 2"):
        collect(replay_of(ppo, folder), ppo, step=2)
    with pytest.raises(UsageError, match="does not exist"):
        RecordedRollouts(tmp_path / "none")
    with pytest.raises(UsageError, match=r"holds no step-N-rank-R\.parquet"):
        RecordedRollouts(tmp_path)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_without_one_ranks_shard_is_not_whole(tmp_path, rank):
    ppo = TinyPPO(section_of())
    folder = record(tmp_path, ppo.collect(), num_ranks=3)
    (folder / f"step-1-rank-{rank}.parquet").unlink()
    with pytest.raises(DataError, match="step 1 is not whole: "):
        collect(replay_of(ppo, folder), ppo)


def test_without_the_last_ranks_shard_the_batch_size_does_not_fit(tmp_path):
    ppo = TinyPPO(section_of())
    folder = record(tmp_path, ppo.collect(), num_ranks=2)
    (folder / "step-1-rank-1.parquet").unlink()
    with pytest.raises(UsageError, match=r"has 4 responses, ppo\.global_batch_size is 8"):
        collect(replay_of(ppo, folder), ppo)


def test_a_shard_that_cannot_be_read_is_named(tmp_path):
    ppo = TinyPPO(section_of())
    folder = record(tmp_path, ppo.collect(), num_ranks=1)
    (folder / "step-1-rank-0.parquet").write_bytes(b"not Parquet")
    with pytest.raises(DataError, match=r"step-1-rank-0.parquet: cannot be read as Parquet"):
        collect(replay_of(ppo, folder), ppo)


def test_another_tokenizers_tokens_are_refused(tmp_path):
    ppo = TinyPPO(section_of())
    rollout = ppo.collect()
    first = rollout.episodes[0]
    for token, fits in ((VOCAB - 1, True), (VOCAB, False)):
        changed = dataclasses.replace(first, response_ids=[token, *first.response_ids[1:]])
        folder = record(tmp_path, collate([changed, *rollout.episodes[1:]]))
        if fits:
            assert collect(replay_of(ppo, folder), ppo).response_ids[0, 0] == token
            continue
        with pytest.raises(
            UsageError, match=r"has the token 23, the policy has 23 tokens: .* another tokenizer"
        ):
            collect(replay_of(ppo, folder), ppo)


@pytest.mark.parametrize("cut", [{"top_p": 0.9}, {"min_p": 0.1}])
def test_a_cut_support_is_refused(tmp_path, cut):
    ppo = TinyPPO(section_of())
    folder = record(tmp_path, ppo.collect())
    with pytest.raises(UsageError, match="top_p or min_p"):
        replay_of(ppo, folder, sampling={"max_new_tokens": 7, **cut})


def test_offending_rows_are_written_with_their_broken_numbers(tmp_path):
    rollout = TinyPPO(section_of()).collect()
    broken = dataclasses.replace(
        rollout.episodes[5], values=np.full_like(rollout.episodes[5].values, math.nan), score=math.inf
    )
    rollout = collate([*rollout.episodes[:5], broken, *rollout.episodes[6:]])
    path = write_offending(tmp_path, rollout, [5, 2], 7, Letters())
    assert path == tmp_path / "offending" / "step-7.parquet"
    rows = pq.read_table(path).to_pylist()
    assert [row["prompt_id"] for row in rows] == [5, 2]
    assert rows[0]["score"] == math.inf
    assert all(math.isnan(value) for value in rows[0]["values"])
    assert rows[1]["response_ids"] == rollout.episodes[2].response_ids
    assert {row["step"] for row in rows} == {7}
    assert [path.name for path in (tmp_path / "offending").iterdir()] == ["step-7.parquet"]
