"""Sampling noise and the order of prompts: functions of what is sampled, of nothing else."""

from collections import Counter

import numpy as np

from rlhf.ppo.noise import EVALUATION_STREAM, ROLLOUT_STREAM, sampling_noise
from rlhf.ppo.prompts import Prompt, PromptStream, permutation


def test_noise_does_not_depend_on_the_batch_or_on_the_length():
    whole = sampling_noise(1, 2, [5, 6, 7], [0, 0, 1], 8, stream=ROLLOUT_STREAM)
    assert whole.shape == (3, 8)
    assert whole.dtype == np.float32
    alone = sampling_noise(1, 2, [7], [1], 8, stream=ROLLOUT_STREAM)
    assert (alone[0] == whole[2]).all()
    shorter = sampling_noise(1, 2, [6, 5], [0, 0], 3, stream=ROLLOUT_STREAM)
    assert (shorter == whole[[1, 0], :3]).all()


def test_noise_differs_by_each_part_of_its_key():
    base = {"seed": 1, "step": 2, "prompt": 3, "sample": 4, "stream": ROLLOUT_STREAM}
    changes = [{}, {"seed": 9}, {"step": 9}, {"prompt": 9}, {"sample": 9}, {"stream": EVALUATION_STREAM}]
    # 1,23 and 12,3 must not be one key
    changes += [{"step": 1, "prompt": 23}, {"step": 12, "prompt": 3}]
    rows = []
    for change in changes:
        key = base | change
        rows.append(
            sampling_noise(
                key["seed"], key["step"], [key["prompt"]], [key["sample"]], 16, stream=key["stream"]
            )
        )
    assert len({row.tobytes() for row in rows}) == len(changes)


def test_noise_is_uniform():
    """Mean, variance and 20 bins of 200,000 numbers; 43.82 is the chi-square's 99.9% quantile at 19 degrees."""
    numbers = sampling_noise(0, 0, list(range(2000)), [0] * 2000, 100, stream=ROLLOUT_STREAM).ravel()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 43.82
    # neighbouring positions and rows are uncorrelated
    table = numbers.reshape(2000, 100)
    for one, other in ((table[:, :-1], table[:, 1:]), (table[:-1], table[1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.01


def stream_of(num_prompts, per_step, seed=0, samples=1):
    prompts = [Prompt(100 + n, [n], str(n)) for n in range(num_prompts)]
    return PromptStream(prompts, seed=seed, num_per_step=per_step, samples_per_prompt=samples)


def test_every_prompt_once_in_each_pass():
    taken = [p.prompt_id for step in range(9) for p, _ in stream_of(12, 4).step(step)]
    for start in (0, 12, 24):
        assert sorted(taken[start : start + 12]) == list(range(100, 112))
    assert taken[:12] != taken[12:24] != taken[24:36]
    assert taken[:12] != [p.prompt_id for step in range(3) for p, _ in stream_of(12, 4, seed=1).step(step)]


def test_passes_do_not_depend_on_how_many_prompts_a_step_takes():
    by_four = [p.prompt_id for step in range(6) for p, _ in stream_of(8, 4).step(step)]
    by_three = [p.prompt_id for step in range(8) for p, _ in stream_of(8, 3).step(step)]
    assert by_four == by_three


def test_a_step_is_a_function_of_its_number():
    stream = stream_of(5, 4)
    later = stream.step(7)
    stream.step(0)
    assert stream.step(7) == later == stream_of(5, 4).step(7)


def test_a_prompt_taken_twice_in_a_step_gets_other_samples():
    step = stream_of(3, 8).step(0)
    keys = Counter((prompt.prompt_id, sample) for prompt, sample in step)
    assert set(keys.values()) == {1}
    assert sorted(Counter(prompt.prompt_id for prompt, _ in step).values()) == [2, 3, 3]


def test_samples_per_prompt_share_the_steps_responses_among_fewer_prompts():
    each = [stream_of(12, 2).step(step) for step in range(6)]
    grouped = [stream_of(12, 6, samples=3).step(step) for step in range(6)]
    for one, three in zip(each, grouped, strict=True):
        prompts = [prompt.prompt_id for prompt, _ in one]
        assert [prompt.prompt_id for prompt, _ in three] == [prompts[0]] * 3 + [prompts[1]] * 3
        assert [sample for _, sample in three] == [0, 1, 2, 0, 1, 2]


def test_a_prompt_that_a_step_takes_twice_gets_new_samples_each_time():
    step = stream_of(3, 16, samples=4).step(0)
    keys = Counter((prompt.prompt_id, sample) for prompt, sample in step)
    assert set(keys.values()) == {1}
    samples = {n: sorted(sample for p, sample in keys if p == n) for n in (100, 101, 102)}
    assert sorted(samples.values()) == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_permutations_are_permutations_by_key():
    assert sorted(permutation(50, 1, 2)) == list(range(50))
    assert list(permutation(50, 1, 2)) == list(permutation(50, 1, 2))
    assert list(permutation(50, 1, 2)) != list(permutation(50, 2, 1))
