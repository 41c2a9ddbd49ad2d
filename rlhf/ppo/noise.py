"""Counter-based sampling noise: the same (seed, step, prompt, sample, position) gives the same number everywhere.

So the same tokens are drawn, up to rounding, whatever the batch size, the engine or the number of processes, and a
resumed run needs no generator state.
"""

import hashlib

import numpy as np

ROLLOUT_STREAM = 0
EVALUATION_STREAM = 1


def sampling_noise(
    seed: int, step: int, prompt_ids: list[int], sample_indices: list[int], num_tokens: int, *, stream: int
) -> np.ndarray:
    """Uniform numbers in [0, 1), one a position: float32 [B, num_tokens].

    Args:
        seed: the stage's seed.
        step: the rollout step.
        prompt_ids: [B] which prompt each row answers.
        sample_indices: [B] which of the prompt's responses it is.
        num_tokens: positions.
        stream: rollouts and evaluation draw from streams of their own.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=counter_key(stream, seed, step, prompt, sample))).random(
            num_tokens, dtype=np.float32
        )
        for prompt, sample in zip(prompt_ids, sample_indices, strict=True)
    ]
    return np.stack(rows)


def counter_key(*parts: int) -> int:
    """A 128-bit Philox key (Salmon et al. 2011) from whole numbers."""
    text = ",".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
