"""The models that scripts/bench_memory.py measures, and what PPO holds of them by arithmetic; imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal

BackboneKind = Literal["shared", "separate"]
BACKBONES: tuple[BackboneKind, ...] = ("shared", "separate")
LORA_RANK = 16
_FLOAT32_BYTES = 4
_NUM_MODELS = 4
_NUM_TRAINED = 2


@dataclass(frozen=True)
class Shape:
    """A Qwen2 architecture (Qwen Team 2024, "Qwen2.5 Technical Report", table 1; numbers of the published config.json)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    tied: bool

    @property
    def key_width(self) -> int:
        """Width of the keys, and of the values, of one layer."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def num_parameters(self) -> int:
        """Of the causal language model; tied embeddings count once."""
        h, kv = self.hidden, self.key_width
        attention = (
            h * h + h + 2 * (h * kv + kv) + h * h
        )  # query, key and value have a bias, the output has none
        layer = attention + 3 * h * self.intermediate + 2 * h
        return self.layers * layer + h + self.vocab * h + self.num_head_parameters

    @property
    def num_head_parameters(self) -> int:
        """Of the language-model head alone, 0 where it is the embedding; reward model and critic have none."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def num_adapter_parameters(self) -> int:
        """Of one LoRA adapter of rank `LORA_RANK` on every linear layer but the heads."""
        h, kv, wide = self.hidden, self.key_width, self.intermediate
        sides = 2 * (h + h) + 2 * (h + kv) + 3 * (h + wide)
        return self.layers * LORA_RANK * sides

    def config(self) -> dict[str, Any]:
        """What transformers' `Qwen2Config` takes."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 32_768,
            "rope_theta": 1_000_000.0,
            "rms_norm_eps": 1e-6,
        }


SHAPES = {
    "tiny": Shape(32, 2, 4, 2, 64, 512, True),
    "0.5b": Shape(896, 24, 14, 2, 4864, 151_936, True),
    "1.5b": Shape(1536, 28, 12, 2, 8960, 151_936, True),
    "3b": Shape(2048, 36, 16, 2, 11_008, 151_936, True),
    "7b": Shape(3584, 28, 28, 4, 18_944, 152_064, False),
}


def weight_bytes(shape: Shape, backbone: BackboneKind) -> int:
    """Bytes of the float32 weights of policy, reference, critic and reward model, adapters and heads included."""
    # PEFT keeps a head's start beside the head that is trained, in critic and reward model.
    own = _NUM_MODELS * shape.num_adapter_parameters + 4 * shape.hidden
    copies = 1 if backbone == "shared" else _NUM_MODELS
    heads = 0 if backbone == "shared" else 2 * shape.num_head_parameters
    return _FLOAT32_BYTES * (copies * shape.num_parameters - heads + own)


def gradient_bytes(shape: Shape) -> int:
    """Bytes of the float32 gradients of policy and critic: their adapters, and the critic's head."""
    return _FLOAT32_BYTES * (_NUM_TRAINED * shape.num_adapter_parameters + shape.hidden)


def state_bytes(shape: Shape, backbone: BackboneKind) -> int:
    """Weights, gradients, and AdamW's two moments: what stays on the device whatever the batch is."""
    return weight_bytes(shape, backbone) + 3 * gradient_bytes(shape)
