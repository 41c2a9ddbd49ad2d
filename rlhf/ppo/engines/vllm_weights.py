"""What vLLM is given of a policy: its weights without adapters, and how one knows that they have changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from rlhf.models.load import inner_model_of
from rlhf.ppo.engines.shadow import plain_weights

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class PlainPolicy(nn.Module):
    """What `VLLMGeneration` reads of a policy: where it was loaded from, and its weights without adapters.

    `VLLMGeneration` would merge adapters into the base and take them off again, which rounds the base; here each is
    merged into a copy of its weight, one at a time.
    """

    def __init__(self, policy: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.policy = (policy,)  # in a tuple: no submodule
        self.device = device

    @property
    def name_or_path(self) -> str:
        """The folder that vLLM reads; of a hub model the one of the revision that was loaded."""
        config = inner_model_of(self.policy[0]).config
        path, commit = str(config.name_or_path), getattr(config, "_commit_hash", None)
        found = None if commit is None else try_to_load_from_cache(path, "config.json", revision=commit)
        return str(Path(found).parent) if isinstance(found, str) else path

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Each weight once, under its name in the model's own files."""
        weights = ((name, each.to(self.device)) for name, each in plain_weights(self.policy[0]))
        return cast(Iterator[tuple[str, nn.Parameter]], weights)


def fingerprint(policy: nn.Module) -> tuple[int, ...]:
    """Of all weights, by their bits; adapters and the base they lie on included."""
    sums = [
        each.detach().view(_BITS[each.element_size()]).sum(dtype=torch.int64) for each in policy.parameters()
    ]
    return tuple(torch.stack(sums).tolist())
