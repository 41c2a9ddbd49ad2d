"""The `vllm` engine: vLLM through TRL's `VLLMGeneration`, which starts it (or speaks to a server), hands it weights and samples.

vLLM computes in its own kernels and in the dtype it chooses (bfloat16 for float32 weights), so that what it samples is
weighed in the update (`rlhf.ppo.importance`). It takes no noise: a colocated engine draws from generators that are
seeded by the call's noise, a server from its own. TRL is imported when an engine is made.
"""

import hashlib
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from rlhf.errors import TrainingError, UsageError
from rlhf.models.forward import pad_right
from rlhf.ppo.engines.base import Generation, require_numbers
from rlhf.ppo.engines.stop_texts import StopTexts
from rlhf.ppo.engines.vllm_weights import PlainPolicy, fingerprint
from rlhf.ppo.episodes import FinishReason
from rlhf.recipe.vllm import VLLMSection

if TYPE_CHECKING:
    from trl.generation.vllm_generation import VLLMGeneration

_REMEDY = {
    "colocate": "Look at the log above this; a smaller ppo.sampling.vllm.gpu_memory_utilization leaves training more "
    "memory, a larger one vLLM. Or take ppo.sampling.engine: auto.",
    "server": "Start it on GPUs of its own: VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config "
    '\'{"backend": "nccl"}\' --logprobs-mode processed_logprobs. Or take ppo.sampling.engine: auto.',
}


class VLLMEngine:
    """Keeps vLLM running between calls, and gives it the policy's weights where they have changed since the last one.

    Args:
        policy: the causal LM, on its device; vLLM reads configuration and tokenizer where it was loaded from.
        settings: the recipe's.
        accelerator: Accelerate's handle on the processes, each of which holds all weights; all make the same calls.
        tokenizer: the policy's.
        num_slots: responses decoded at once by one process.
        max_length: longest prompt and response together, in tokens.
        stop_texts: texts that end a response besides its stop tokens.

    Raises:
        UsageError: vLLM is not installed, of a version that TRL does not take, or does not start.
    """

    def __init__(
        self,
        policy: nn.Module,
        settings: VLLMSection,
        *,
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerBase,
        num_slots: int,
        max_length: int,
        stop_texts: StopTexts | None = None,
    ) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.stop_texts = stop_texts
        self._policy = PlainPolicy(policy, accelerator.device)
        self._sent: tuple[int, ...] = ()
        library = require_vllm()
        try:
            # vLLM seeds everything when it starts.
            with _connection_errors(), seeded(None, accelerator.device):
                self._vllm = library(
                    model=cast(Any, self._policy),
                    accelerator=accelerator,
                    processing_class=tokenizer,
                    mode=settings.mode,
                    server_base_url=settings.server_url,
                    gpu_memory_utilization=settings.gpu_memory_utilization,
                    max_model_length=max_length,
                    max_num_seqs=num_slots,
                    enable_sleep_mode=settings.sleep,
                )
                self._require_of_server(max_length)
                self._send(policy)
        except (ImportError, OSError, RuntimeError, ValueError, LookupError, AssertionError) as error:
            raise UsageError(
                f"ppo.sampling.engine: vllm ({settings.mode}) does not start: {_reason(error)}",
                _REMEDY[settings.mode],
            ) from error

    @torch.no_grad()
    def generate(
        self,
        policy: nn.Module,
        prompts: Sequence[list[int]],
        noise: Tensor,
        *,
        temperature: float,
        stop_ids: tuple[int, ...],
        top_p: float = 1.0,
        min_p: float = 0.0,
    ) -> Generation:
        """See `GenerationEngine.generate`; of the noise its shape counts, and that equal noise seeds equally.

        Raises:
            UsageError: top_p or min_p cut the vocabulary: vLLM does not say what they left.
            TrainingError: a server does not answer.
        """
        if top_p < 1 or min_p > 0:
            raise UsageError(
                f"vLLM does not say which tokens top_p={top_p} and min_p={min_p} left to sample from",
                "Leave ppo.sampling.top_p and min_p out, or take ppo.sampling.engine: hf or graph.",
            )
        num_tokens = noise.shape[1]
        self._vllm.temperature = temperature
        self._vllm.max_completion_length = num_tokens
        self._vllm.generation_kwargs = self._ends(stop_ids)
        rows = self._as_many_as_others(prompts)
        seed = seed_of(noise) if self.settings.mode == "colocate" else None
        device = self.accelerator.device
        with self._told_where(), torch.autocast(device.type, enabled=False), seeded(seed, device):
            self._send(policy)
            _, ids, logprobs, _ = self._vllm.generate(prompts=rows, images=None, num_generations=1)
        sampled = [
            (row, numbers, *self._end(row, num_tokens, stop_ids))
            for row, numbers in zip(ids[: len(prompts)], logprobs[: len(prompts)], strict=True)
        ]
        return _generation(sampled, next(policy.parameters()).device)

    def _require_of_server(self, max_length: int) -> None:
        """Raise ValueError where a server's log-probabilities are not those at the sampling temperature, or its rows cut."""
        if self.settings.mode == "server" and self.accelerator.is_main_process:
            given = self._vllm.vllm_client.get_server_info()["model_config"]
            if given["logprobs_mode"] != "processed_logprobs":
                raise ValueError(
                    f"the server gives {given['logprobs_mode']}, which leave the temperature out"
                )
            if given["max_model_len"] < max_length:
                raise ValueError(
                    f"the server takes {given['max_model_len']} tokens (--max-model-len), and prompt and response have up to {max_length}"
                )

    def _send(self, policy: nn.Module) -> None:
        """Give vLLM the weights, unless they are those that it has."""
        self._policy.policy = (policy,)
        now = fingerprint(policy)
        if now != self._sent:
            self._vllm.sync_weights()
            self._sent = now

    @contextmanager
    def _told_where(self) -> Iterator[None]:
        """Raise TrainingError where a server does not answer."""
        try:
            with _connection_errors():
                yield
        except OSError as error:
            if self.settings.mode != "server":
                raise
            raise TrainingError(
                f"the vLLM server at {self.settings.server_url} does not answer: {_reason(error)}",
                "Start it again, then `rlhf run` with the same recipe: it goes on at the newest checkpoint.",
            ) from error

    def _ends(self, stop_ids: tuple[int, ...]) -> dict[str, Any]:
        """What ends a response: our stop tokens alone, not those that vLLM reads in the model's folder."""
        ends: dict[str, Any] = {"ignore_eos": True, "stop_token_ids": list(stop_ids)}
        if self.stop_texts is not None:
            ends |= {"stop": list(self.stop_texts.texts), "skip_special_tokens": False}
        return ends

    def _end(self, ids: list[int], num_tokens: int, stop_ids: tuple[int, ...]) -> tuple[int, FinishReason]:
        """How many of a row's tokens belong to the response, and what ended it.

        vLLM looks for stop texts in what it decodes, we in tokens: a text that we see earlier cuts the row there, one
        that it alone has seen ends it all the same.
        """
        length, by_text = len(ids), False
        if self.stop_texts is not None:
            ends, completes = self.stop_texts.first_end(torch.tensor([ids]), torch.tensor([length]), length)
            length, by_text = int(ends), bool(completes)
        if ids[length - 1] in stop_ids:
            return length, "eos"
        return length, "stop" if by_text or (self.stop_texts and length < num_tokens) else "length"

    def _as_many_as_others(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """A server's answers are cut into shares of one size: fill up with copies of the last prompt."""
        accelerator, rows = self.accelerator, list(prompts)
        if self.settings.mode == "server" and accelerator.num_processes > 1:
            mine = torch.tensor([len(rows)], device=accelerator.device)
            most = int(cast(Tensor, accelerator.gather(mine)).max())
            rows += rows[-1:] * (most - len(rows))
        return rows


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _connection_errors() -> Iterator[None]:
    """TRL's client raises a bare Exception where a server answers with another status than 200; a ConnectionError here."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ConnectionError(str(error)) from error


def require_vllm() -> "type[VLLMGeneration]":
    """TRL's class, where vLLM is installed in a version that it takes.

    Raises:
        UsageError: it is not.
    """
    from trl.import_utils import is_vllm_available

    remedy = "pip install 'trl[vllm]' in an environment of its own, or take ppo.sampling.engine: auto."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of another version TRL warns alone
            is_there = is_vllm_available()
    except UserWarning as warning:
        raise UsageError(f"ppo.sampling.engine: vllm: {warning}", remedy) from warning
    if not is_there:
        raise UsageError("ppo.sampling.engine: vllm needs vLLM, which is not installed", remedy)
    try:
        from trl.generation.vllm_generation import VLLMGeneration
    except ImportError as error:
        raise UsageError(f"ppo.sampling.engine: vllm: vLLM cannot be imported: {error}", remedy) from error
    return VLLMGeneration


def seed_of(noise: Tensor) -> int:
    """64 bits that equal noise, and only equal noise, has in common.

    Not for `SamplingParams.seed`: there vLLM gives every request of a call the same generator, and so the responses to
    one prompt would be copies of each other.
    """
    digest = hashlib.blake2b(noise.cpu().contiguous().numpy().tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Within it the global generators of Python, NumPy and PyTorch start at a seed; after it they are as they were.

    Args:
        seed: None: they start where they are.
        device: whose generator counts besides the CPU's.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _generation(
    sampled: list[tuple[list[int], list[list[float | None]], int, FinishReason]], device: torch.device
) -> Generation:
    """From each row's tokens, log-probabilities (the sampled token's first at each), length and end."""
    numbers = [
        torch.tensor([math.nan if each[0] is None else each[0] for each in row[:length]])
        for _, row, length, _ in sampled
    ]
    for row in numbers:
        require_numbers(row)
    ids, mask = pad_right([row[:length] for row, _, length, _ in sampled], device)
    reasons: list[FinishReason] = [reason for _, _, _, reason in sampled]
    return Generation(
        ids, mask, pad_sequence(numbers, batch_first=True).to(device), reasons, needs_weights=True
    )
