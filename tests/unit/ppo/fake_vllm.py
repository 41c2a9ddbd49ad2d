"""TRL's `VLLMGeneration` with a small transformers model in vLLM's place; calls that the real class would not take fail."""

import inspect
from types import SimpleNamespace

import torch
from tiny_ppo import tiny_lm
from trl.generation.vllm_generation import VLLMGeneration

from rlhf.ppo.engines.hf import HFEngine


def bound(method, *args, **kwargs):
    """The arguments as the real method has them, defaults filled in; TypeError where it would not take them."""
    arguments = inspect.signature(getattr(VLLMGeneration, method)).bind(*args, **kwargs)
    arguments.apply_defaults()
    return arguments.arguments


class FakeGeneration:
    """Samples from weights that were sent, rounded to `dtype` as vLLM rounds them, with the global generators' numbers.

    Attributes:
        given: arguments of the constructor.
        calls: of each call the settings in force and the prompts.
        num_syncs: how often weights were sent.
    """

    dtype = torch.float32
    logprobs_mode = "processed_logprobs"
    """A server's, as `max_model_len`."""
    max_model_len = 4096
    decode = None
    """Turns tokens into text, where stop texts are looked for."""

    def __init__(self, *args, **kwargs):
        self.given = bound("__init__", self, *args, **kwargs)
        self.model = self.given["model"]
        for name in ("temperature", "max_completion_length", "generation_kwargs"):
            setattr(self, name, self.given[name])
        self.calls, self.num_syncs = [], 0
        self.engine = tiny_lm(seed=99)
        info = {"model_config": {"logprobs_mode": self.logprobs_mode, "max_model_len": self.max_model_len}}
        self.vllm_client = SimpleNamespace(get_server_info=lambda: info)

    def sync_weights(self, *args, **kwargs):
        bound("sync_weights", self, *args, **kwargs)
        self.num_syncs += 1
        mine = dict(self.engine.named_parameters())
        sent = {name: weight.data for name, weight in self.model.named_parameters()}
        assert sent.keys() == mine.keys()
        for name, weight in sent.items():
            mine[name].data = weight.to(self.dtype).float()

    def generate(self, *args, **kwargs):
        given = bound("generate", self, *args, **kwargs)
        assert given["num_generations"] == 1
        assert given["images"] is None
        prompts, ends = given["prompts"], dict(self.generation_kwargs)
        assert ends.pop("ignore_eos") is True
        self.calls.append(
            {
                "prompts": prompts,
                "temperature": self.temperature,
                "max_completion_length": self.max_completion_length,
                **ends,
            }
        )
        out = HFEngine().generate(
            self.engine,
            prompts,
            torch.rand(len(prompts), self.max_completion_length),
            temperature=self.temperature,
            stop_ids=tuple(ends["stop_token_ids"]),
        )
        ids = [row[kept].tolist() for row, kept in zip(out.response_ids, out.response_mask, strict=True)]
        ids = [self._until_text(row, ends.get("stop", [])) for row in ids]
        logprobs = [
            [[x] for x in row[: len(kept)].tolist()] for row, kept in zip(out.logprobs, ids, strict=True)
        ]
        return prompts, ids, logprobs, [[[token] for token in row] for row in ids]

    def _until_text(self, ids, stop):
        for end in range(1, len(ids) + 1):
            if any(text in self.decode(ids[:end]) for text in stop):
                return ids[:end]
        return ids
