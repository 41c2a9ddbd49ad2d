"""Policy and critic as one module, since DeepSpeed takes one.

A row is a left-padded prompt followed by a right-padded response: `[B, P + T]`. What concerns response token t
(its log-probability, the value before it) comes from the hidden state at column P + t - 1.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from rlhf.models.forward import apply_score_head, hidden_states
from rlhf.models.load import inner_model_of, output_head_of
from rlhf.models.quantized import is_quantized
from rlhf.ppo.losses import token_logprobs

Role = Literal["policy", "critic"]
ROLES: tuple[Role, ...] = ("policy", "critic")
MAX_LOGITS = 2**27
"""That exist at once: 512 MiB as float32."""


class Extent(NamedTuple):
    """What the host knows of a batch; where it is not told, it has to wait for the device to say it.

    Attributes:
        width: tokens of the longest row, prompt and response together.
        num_tokens: response tokens of all rows; exactly, since states of more are not computed, and looked at on a CPU alone.
    """

    width: int | None = None
    num_tokens: int | None = None


def extent_of(lengths: Sequence[tuple[int, int]]) -> Extent:
    """Of rows with so many prompt and response tokens."""
    return Extent(max(map(sum, lengths)), sum(response for _, response in lengths))


class ActorCritic(nn.Module):
    """The policy (a causal LM) and the critic (a reward model whose head is read at every token).

    Its state is what trains. Frozen weights under an adapter are those of the base, which is proved at every start:
    a checkpoint does not repeat them, so it is small, and fits models that share the base's weights and models that
    do not. One that has them loads too.
    """

    def __init__(self, policy: nn.Module, critic: nn.Module, *, temperature: float) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.temperature = temperature
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_pre_hook(_fill_in_frozen)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor,
        support: Tensor | None = None,
        *,
        extent: Extent = Extent(),
        roles: tuple[Role, ...] = ROLES,
    ) -> dict[str, Tensor]:
        """Log-probabilities, entropies and values of the response tokens.

        Args:
            input_ids: [B, P + T] int64, prompts left-padded, responses right-padded.
            attention_mask: [B, P + T] bool, True on real tokens.
            response_mask: [B, T] bool, True on response tokens.
            support: [B, T, K] int64, the tokens that each was sampled from, padded with -1; None: all.
            extent: of the batch.
            roles: who is asked.

        Returns:
            `logprobs` and `entropy` of the policy, `values` of the critic: [B, T] float32 each, 0 outside the mask.
        """
        outputs: dict[str, Tensor] = {}
        if "policy" in roles:
            outputs["logprobs"], outputs["entropy"] = response_logprobs(
                self.policy,
                input_ids,
                attention_mask,
                response_mask,
                support,
                temperature=self.temperature,
                extent=extent,
            )
        if "critic" in roles:
            outputs["values"] = response_values(
                self.critic, input_ids, attention_mask, response_mask, extent=extent
            )
        return outputs


def response_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    support: Tensor | None = None,
    *,
    temperature: float,
    extent: Extent = Extent(),
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [B, T] float32 of the response tokens at the sampling temperature.

    With a support [B, T, K] (see `ActorCritic.forward`) they are those of the distribution over it.
    """
    return token_logprobs(
        _response_states(model, input_ids, attention_mask, response_mask, extent),
        cast(Any, output_head_of(model)),
        input_ids[:, -response_mask.shape[1] :],
        temperature=temperature,
        mask=response_mask,
        chunk_tokens=chunk_tokens_of(model),
        support=support,
        num_kept=extent.num_tokens,
    )


def chunk_tokens_of(model: nn.Module) -> int:
    """Tokens whose logits together are `MAX_LOGITS`, at least one."""
    return max(1, MAX_LOGITS // cast(Any, inner_model_of(model).config).get_text_config().vocab_size)


def response_values(
    critic: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    *,
    extent: Extent = Extent(),
) -> Tensor:
    """Values [B, T] float32: `values[:, t]` is read before response token t; 0 outside the mask."""
    hidden = _response_states(critic, input_ids, attention_mask, response_mask, extent)
    return apply_score_head(critic, hidden).masked_fill(~response_mask, 0.0)


def _response_states(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, extent: Extent
) -> Tensor:
    """States [B, T, H], each of the token before a response token; outside the mask they may be anything finite."""
    return hidden_states(
        model,
        input_ids,
        attention_mask,
        extent.width,
        wanted=slice(-response_mask.shape[1] - 1, -1),
        read=response_mask,
        num_read=extent.num_tokens,
    )


def _drop_frozen(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for name, parameter in _frozen(module):
        state_dict.pop(prefix + name, None)
        if is_quantized(parameter):  # its scales stand beside it, as `weight.absmax`
            for scale in [key for key in state_dict if key.startswith(f"{prefix}{name}.")]:
                del state_dict[scale]


def _fill_in_frozen(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, parameter in _frozen(module):
        state_dict.setdefault(prefix + name, parameter.detach())


def _frozen(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    named = module.named_parameters(remove_duplicate=False)
    return ((name, parameter) for name, parameter in named if not parameter.requires_grad)
