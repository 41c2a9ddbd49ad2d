"""The weights that a decoding engine reads: the policy's own where they stay and have the dtype of decoding, else a copy.

Projections that are joined are a copy in any case. A copy is refreshed in place, so that what was captured with its
addresses stays valid. An adapter is merged into the copy, in float32, and never into the base. The modules are a tree
of their own over these weights: nothing is set on the policy, and its hooks and adapters do not run.
"""

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.models.load import inner_model_of
from rlhf.ppo.engines.joined import Joined, join_projections


class Shadow:
    """Decodes as the policy would.

    Args:
        policy: a causal LM, whole or under adapters.
        dtype: to decode in.
        copied: copy the weights whatever their dtype: the policy's are whole for the time of a call alone.

    Attributes:
        owns_weights: whether the weights are a copy.
    """

    def __init__(self, policy: nn.Module, dtype: torch.dtype, *, copied: bool = False) -> None:
        inner = inner_model_of(policy)
        self._sources = dict(_sources(inner))
        plain = not copied and all(
            isinstance(each, nn.Parameter) and each.dtype == dtype for each in self._sources.values()
        )
        self.owns_weights = not plain
        self._weights: dict[int, nn.Parameter] = {}
        for source in self._sources.values():
            if plain and isinstance(source, nn.Parameter):
                room = source.data
            else:
                room = torch.empty(source.shape, dtype=dtype, device=source.device)
            self._weights.setdefault(id(source), nn.Parameter(room, requires_grad=False))
        self._config, self._class, self._buffers = inner.config, type(inner), dict(_buffers(inner))
        self._addresses = [_address(each) for each in self._sources.values()]
        self._joined: list[Joined] = []
        self.refresh(policy)

    def tree(self, attention: str, *, joined: bool = False) -> PreTrainedModel:
        """Modules over the weights, in evaluation mode.

        Args:
            attention: the name of an attention function, as transformers registers it.
            joined: see `join_projections`; of one tree, the last that asks for it.
        """
        config = copy.deepcopy(self._config)
        with torch.device("meta"):
            model = cast(Any, self._class)(config)
        for name, source in self._sources.items():
            _put(model, name, self._weights[id(source)])
        for name, buffer in self._buffers.items():
            _put(model, name, buffer)
        left = [name for name, each in _tensors(model) if each.is_meta]
        assert not left, f"weights that the policy lacks: {left[:5]}"
        model.set_attn_implementation(attention)
        if joined:
            self._joined = join_projections(model, owned=self.owns_weights)
        return model.eval()

    def holds(self, policy: nn.Module) -> bool:
        """Whether `refresh` can take this policy's weights: the same shapes, or, where nothing is copied, the same memory."""
        sources = dict(_sources(inner_model_of(policy)))
        if not self.owns_weights:
            return [_address(each) for each in sources.values()] == self._addresses
        mine = {name: self._weights[id(source)].shape for name, source in self._sources.items()}
        return mine == {name: source.shape for name, source in sources.items()}

    @torch.no_grad()
    def refresh(self, policy: nn.Module) -> None:
        """Take over the policy's weights of now."""
        if self.owns_weights:
            for name, source in _sources(inner_model_of(policy)):
                weight = source.data if isinstance(source, nn.Parameter) else source.merged()
                self._weights[id(self._sources[name])].copy_(weight)
        for joined in self._joined:
            joined.refresh()


@torch.no_grad()
def plain_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight once, under its name without adapters, as an engine reads it that knows none.

    Args:
        policy: a causal LM, whole or under adapters.

    Yields:
        The weight itself, or, under an adapter, a merged copy of it in the same dtype, made when it is asked for.
    """
    seen: set[int] = set()
    for name, source in _sources(inner_model_of(policy)):
        if isinstance(source, _Adapted):
            yield name, source.merged().to(source.dtype)
        elif id(source) not in seen:  # else tied to one before it
            seen.add(id(source))
            yield name, source.data


class _Adapted:
    """A weight under an adapter."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    @property
    def shape(self) -> torch.Size:
        return self._layer.get_base_layer().weight.shape

    @property
    def dtype(self) -> torch.dtype:
        return self._layer.get_base_layer().weight.dtype

    @property
    def device(self) -> torch.device:
        return self._layer.get_base_layer().weight.device

    @torch.no_grad()
    def merged(self) -> Tensor:
        """[out, in] float32: base + scale x B A (Hu et al. 2021, eq. 3)."""
        weight = self._layer.get_base_layer().weight.float()
        if self._layer.disable_adapters:
            return weight
        for adapter in self._layer.active_adapters:
            if adapter in self._layer.scaling:
                weight = weight + self._layer.get_delta_weight(adapter).float()
        return weight


_Source = nn.Parameter | _Adapted


def _sources(inner: PreTrainedModel) -> Iterator[tuple[str, _Source]]:
    """Every weight by its name without adapters; a weight tied to another comes twice, as one object."""
    for path, module in inner.named_modules():
        if isinstance(module, BaseTunerLayer):
            base = cast(nn.Module, module.get_base_layer())
            for name, parameter in base.named_parameters(recurse=False):
                yield f"{path}.{name}", _Adapted(module) if name == "weight" else parameter
        elif isinstance(module, ModulesToSaveWrapper):
            kept = module.modules_to_save[module.active_adapters[0]]
            yield from ((f"{path}.{name}", each) for name, each in kept.named_parameters())
        elif not _is_inside(path):
            yield from (
                (f"{path}.{name}".lstrip("."), each)
                for name, each in module.named_parameters(recurse=False, remove_duplicate=False)
            )


def _is_inside(path: str) -> bool:
    """Whether a module belongs to an adapter, or lies under one."""
    inside = ("base_layer", "original_module", "modules_to_save")
    return any(part in inside or part.startswith("lora_") for part in path.split("."))


def _buffers(inner: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    return ((name, each) for name, each in inner.named_buffers() if not _is_inside(name))


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor, persistent=False)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _address(source: _Source) -> int:
    return source.data_ptr() if isinstance(source, nn.Parameter) else id(source)
