"""One copy of the frozen weights of models that lie on the same base (Santacroce et al. 2023, "Efficient RLHF").

Every model stays a module tree of its own, with its own adapter and head; the trees hold the same parameter objects.
So no adapter is ever switched: each forward pass, and each recomputation in the backward pass, runs in its own tree.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from rlhf.errors import ModelError
from rlhf.models.adapters import SCORE_HEAD
from rlhf.models.load import inner_model_of
from rlhf.models.quantized import is_quantized, scales_of

_OWN = ("lora_", "modules_to_save", "original_module")


class SharedWeights:
    """The frozen weights of one base, held once, whoever joins first."""

    def __init__(self) -> None:
        self._held: dict[str, nn.Parameter] = {}

    def join(self, model: nn.Module, name: str) -> None:
        """Let a model hold the shared parameters in place of its own equal ones; what trains stays its own.

        Args:
            model: a causal LM or a reward model, whole or under a LoRA adapter.
            name: of the model, for the error.

        Raises:
            ModelError: a weight differs from the shared one; nothing has been changed then.
        """
        mine = list(_frozen_weights(model))
        for weight, module, attribute in mine:
            held = self._held.get(weight)
            if held is not None and not _equal(held, getattr(module, attribute)):
                raise ModelError(
                    f"{name}: its weight {weight} is not that of the base which the other models share",
                    "Train all of them as adapters on one base, or set ppo.backbone: separate.",
                )
        # Input and output embeddings may be one: held under one name, it is held under the other too.
        held_for = {getattr(m, a): self._held[weight] for weight, m, a in mine if weight in self._held}
        for weight, module, attribute in mine:
            own: nn.Parameter = getattr(module, attribute)
            held = self._held.setdefault(weight, held_for.get(own, own))
            setattr(module, attribute, held)
            if is_quantized(held):  # the module names the scales of its codes too
                setattr(module, "quant_state", getattr(held, "quant_state"))  # noqa: B009, B010  # bitsandbytes' own
        # Its adapter and head follow: whoever joined first may be on the accelerator already.
        for weight in list(self._held.values())[:1]:
            model.to(weight.device)


def parameter_bytes(models: Iterable[nn.Module]) -> int:
    """Bytes of all parameters of some models, each piece of memory counted once."""
    storages = {
        storage.data_ptr(): storage.nbytes()
        for model in models
        for parameter in model.parameters()
        for storage in (tensor.untyped_storage() for tensor in (parameter, *scales_of(parameter)))
    }
    return sum(storages.values())


def _frozen_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Weights of the base: (name in the base, module that holds it, attribute); a weight tied to another comes twice."""
    for path, module in inner_model_of(model).named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}".replace(".base_layer.", ".")
            is_own = name.startswith(f"{SCORE_HEAD}.") or any(part in name for part in _OWN)
            if not is_own and not parameter.requires_grad:
                yield name, module, attribute


def _equal(held: nn.Parameter, other: nn.Parameter) -> bool:
    if held is other:
        return True
    mine, theirs = ([weight.detach().data, *scales_of(weight)] for weight in (held, other))
    return len(mine) == len(theirs) and all(
        one.shape == two.shape and one.dtype == two.dtype and torch.equal(one, two.to(one.device))
        for one, two in zip(mine, theirs, strict=True)
    )
