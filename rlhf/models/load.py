"""Loading models so that no weight is ever missing in silence: float32, strict, full or LoRA; under LoRA the base may be in 4 bits.

An adapter folder (PEFT) is loaded on the base that it names; every adapter of a run names the same base.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, TaskType, load_peft_weights
from peft.peft_model import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf.errors import ModelError
from rlhf.models.adapters import SCORE_HEAD, fill_adapter, lora_config, with_new_adapter, with_saved_adapter
from rlhf.models.quantized import Quantization, loading_arguments, prepare
from rlhf.recipe.model import LoRA, ScratchModel

ADAPTER_CONFIG = "adapter_config.json"

TESTED_FAMILIES = ("gemma", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
"""transformers' `model_type`s whose shortcuts, in forward passes and in the `graph` engine, are tested beside a plain pass."""


@dataclass(frozen=True)
class ModelSource:
    """Where weights come from: a folder or hub id, and how to read it; `quantization` is of the frozen base."""

    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    quantization: Quantization | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds a PEFT adapter rather than whole weights."""
        return (Path(self.path) / ADAPTER_CONFIG).is_file()

    @property
    def base(self) -> "ModelSource":
        """The base that an adapter names; a whole model is its own base."""
        if not self.is_adapter:
            return self
        config = PeftConfig.from_pretrained(self.path)
        return replace(self, path=str(config.base_model_name_or_path), revision=config.revision)


def scratch_causal_lm(
    spec: ScratchModel, *, eos_token_id: int, pad_token_id: int, seed: int
) -> PreTrainedModel:
    """A randomly initialised causal language model of the recipe's shape, embeddings tied."""
    shape: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.intermediate_size or 4 * spec.hidden_size,
        "max_position_embeddings": spec.max_positions,
        "tie_word_embeddings": True,
        "eos_token_id": eos_token_id,
        "bos_token_id": None,
        "pad_token_id": pad_token_id,
    }
    if spec.model_type in ("llama", "mistral", "qwen2"):
        shape["num_key_value_heads"] = spec.num_heads
    if spec.model_type == "gpt2":
        shape["n_inner"] = shape.pop("intermediate_size")
        shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = AutoConfig.for_model(spec.model_type, **shape)
    torch.manual_seed(seed)
    return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def load_causal_lm(
    source: ModelSource, *, lora: LoRA | None = None, seed: int = 0, trainable: bool = True
) -> nn.Module:
    """A causal language model in float32; an adapter folder comes as a PEFT model on its base.

    Args:
        source: whole weights or an adapter folder.
        lora: put a new adapter of this shape on whole weights; an adapter folder keeps the one it has.
        seed: of a new adapter's weights.
        trainable: whether the adapter's weights get gradients.

    Raises:
        ModelError: the model does not exist, cannot be read, or lacks weights.
    """
    base = _strict(AutoModelForCausalLM, source.base, may_miss=())
    if source.is_adapter:
        return with_saved_adapter(base, source.path, trainable=trainable)
    if lora is not None:
        return _new_adapter(base, lora_config(lora, TaskType.CAUSAL_LM), seed, source)
    return base


def load_reward_model(source: ModelSource, *, trainable: bool = False) -> nn.Module:
    """A reward model in float32: a one-label sequence classifier whose head was trained, full or as an adapter.

    Raises:
        ModelError: it does not exist, has more than one label, or its head is missing.
    """
    if source.is_adapter:
        base = _strict(
            AutoModelForSequenceClassification, source.base, may_miss=(f"{SCORE_HEAD}.weight",), num_labels=1
        )
        return with_saved_adapter(base, source.path, trainable=trainable)
    model = _strict(AutoModelForSequenceClassification, source, may_miss=())
    _require_score_head(model, source)
    return model


def new_reward_model(source: ModelSource, *, lora: LoRA | None, pad_token_id: int, seed: int) -> nn.Module:
    """A reward model to be trained: the language model's backbone under a new head, which starts at zero-mean noise.

    With LoRA the reward adapter goes on from the SFT adapter, on the same base and in the same shape, and the head is
    trained and saved with it.

    Args:
        source: the SFT model, whole or as an adapter.
        lora: the shape of a new adapter, where the SFT model is whole; None trains all weights of it.
        pad_token_id: the classifier reads the score at the last token that is not this one.
        seed: of the head's weights.
    """
    torch.manual_seed(seed)
    model = _strict(
        AutoModelForSequenceClassification, source.base, may_miss=(f"{SCORE_HEAD}.weight",), num_labels=1
    )
    _require_score_head(model, source)
    head = cast(nn.Linear, getattr(model, SCORE_HEAD))
    # Stiennon et al. 2020, appendix: the head starts at N(0, 1/(d+1)), so that scores start at order 1.
    nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)
    model.config.pad_token_id = pad_token_id
    if source.is_adapter:
        config = PeftConfig.from_pretrained(source.path)
        config.task_type, config.inference_mode = TaskType.SEQ_CLS, False
        cast(LoraConfig, config).modules_to_save = [SCORE_HEAD]
        peft_model = _new_adapter(model, config, seed, source.base)
        weights = load_peft_weights(source.path, device="cpu")
        # PEFT asks for every module to save; the SFT adapter has no head, so the new one is handed in.
        weights[f"base_model.model.{SCORE_HEAD}.weight"] = head.weight.detach().clone()
        fill_adapter(peft_model, weights, source.path)
        return peft_model
    if lora is None:
        return model
    return _new_adapter(model, lora_config(lora, TaskType.SEQ_CLS), seed, source)


def inner_model_of(model: nn.Module) -> PreTrainedModel:
    """transformers' own model: under PEFT's wrapper, with the adapter's layers still in it; else the model itself."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def backbone_of(model: nn.Module) -> nn.Module:
    """The transformer below the head, adapters included: maps token ids to hidden states `[B, L, H]`."""
    inner = inner_model_of(model)
    return getattr(inner, inner.base_model_prefix)


def layers_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The transformer's layers, first to last."""
    return [each for each in backbone_of(model).modules() if isinstance(each, GradientCheckpointingLayer)]


def home_of(inner: PreTrainedModel) -> str:
    """Where transformers keeps the code of a model's family."""
    family = inner.config.model_type
    return f"transformers.models.{family}.modeling_{family}"


def takes_shortcuts(model: nn.Module) -> bool:
    """Whether a forward pass of now may be changed from outside, by `mlps_on` and `lean_operators`.

    Not of families that they are not tested with, or of code in a model's own folder; nor of compiled layers, into which
    neither reaches, nor with gradient checkpointing, where the backward pass computes layers anew when they are over.
    """
    inner = inner_model_of(model)
    # FSDP2 makes subclasses.
    is_theirs = any(each.__module__ == home_of(inner) for each in type(inner).__mro__)
    if inner.config.model_type not in TESTED_FAMILIES or not is_theirs:
        return False
    layer = layers_of(model)[-1]
    is_compiled = layer._compiled_call_impl is not None  # pyright: ignore[reportPrivateUsage]
    computes_anew = layer.gradient_checkpointing and layer.training and torch.is_grad_enabled()
    return not is_compiled and not computes_anew


def has_checkpointing(model: nn.Module) -> bool:
    """Whether its passes with gradient keep no activations within layers."""
    return layers_of(model)[-1].gradient_checkpointing


def score_head_of(model: nn.Module) -> nn.Module:
    """The reward model's head: maps hidden states `[..., H]` to scores `[..., 1]`."""
    return getattr(inner_model_of(model), SCORE_HEAD)


def output_head_of(model: nn.Module) -> nn.Module:
    """The language-model head: maps hidden states `[..., H]` to logits `[..., V]`."""
    return cast(nn.Module, inner_model_of(model).get_output_embeddings())


def disable_dropout(model: nn.Module) -> None:
    """Dropout off everywhere, LoRA's included, so that two forward passes agree."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config = getattr(model, "config", None)
    for name in ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout"):
        if config is not None and getattr(config, name, None):
            setattr(config, name, 0.0)
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010  # nn.Module types plain floats as modules


@torch.no_grad()
def check_plain_logits(model: nn.Module) -> None:
    """Raise where logits are not simply head(hidden): soft-capped or scaled logits would give wrong log-probabilities."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    ids = torch.arange(4, device=device)[None]
    logits = model(input_ids=ids, use_cache=False).logits.float()
    ours = output_head_of(model)(backbone_of(model)(input_ids=ids, use_cache=False).last_hidden_state).float()
    model.train(was_training)
    if not torch.allclose(logits, ours, rtol=1e-3, atol=1e-3):
        raise ModelError(
            f"{type(model).__name__} changes its logits after the head (soft-capping or scaling)",
            "PPO does not support this architecture: use one whose logits are head(hidden states), such as Llama or Qwen.",
        )


def _strict(
    auto_class: Any, source: ModelSource, *, may_miss: tuple[str, ...], **kwargs: Any
) -> PreTrainedModel:
    quantized = {} if source.quantization is None else loading_arguments(source.quantization)
    try:
        model, info = auto_class.from_pretrained(
            source.path,
            revision=source.revision or "main",
            trust_remote_code=source.trust_remote_code,
            attn_implementation=source.attn_implementation,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            **quantized,
            **kwargs,
        )
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {source.path}: cannot be loaded: {first}",
            "Give a local folder with safetensors weights, or a hub id that this machine can reach.",
        ) from error
    missing = sorted(key for key in info["missing_keys"] if key not in may_miss)
    mismatched = sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing or mismatched:
        names = ", ".join([*missing, *mismatched][:5])
        raise ModelError(
            f"model {source.path}: {len(missing)} weight(s) missing and {len(mismatched)} of another shape: {names}",
            "The folder does not hold what its config describes; publish or download it again.",
        )
    if not getattr(model.config, "is_causal", True):
        raise ModelError(
            f"model {source.path}: its tokens look at what follows them (is_causal: false in its config)",
            "Take a causal model: PPO needs a score and a value that depend on the tokens so far alone.",
        )
    return model if source.quantization is None else prepare(model, source.path)


def _new_adapter(base: PreTrainedModel, config: PeftConfig, seed: int, source: ModelSource) -> nn.Module:
    return with_new_adapter(base, config, seed, path=source.path, revision=source.revision)


def _require_score_head(model: nn.Module, source: ModelSource) -> None:
    config = getattr(model, "config", None)
    head = getattr(model, SCORE_HEAD, None)
    if getattr(config, "num_labels", None) != 1 or not isinstance(head, nn.Module):
        raise ModelError(
            f"model {source.path} is no reward model: a sequence classifier with one label and a `{SCORE_HEAD}` head is needed, "
            f"this one has num_labels={getattr(config, 'num_labels', None)}",
            "Train one with the reward stage.",
        )
