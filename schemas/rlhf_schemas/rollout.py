"""What PPO sampled and trained on."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from rlhf_schemas.base import Metadata, Record, Text, check_unicode

TokenId = Annotated[int, Field(ge=0)]

_PER_TOKEN = (
    *("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"),
    *("engine_logprobs", "importance_weights"),
)


class RolloutRecord(Record):
    """One sampled response with every number that PPO computed for it; lists have one entry a response token."""

    prompt: Text
    """The prompt as text, as the model saw it."""
    response: Annotated[str, AfterValidator(check_unicode)]
    """The response as text; may be empty, since EOS alone is a response."""
    prompt_ids: list[TokenId] = Field(min_length=1)
    """The prompt's tokens, without padding."""
    response_ids: list[TokenId] = Field(min_length=1)
    """The response's tokens, EOS included where it was sampled, without padding."""
    logprobs: list[float]
    """Log-probabilities under the policy that sampled, from the training forward pass, at the sampling temperature; nats."""
    ref_logprobs: list[float]
    """Log-probabilities under the reference model, at the sampling temperature; nats."""
    values: list[float]
    """The critic's values before each token."""
    rewards: list[float]
    """Reward of each token: the KL penalty, and on the last token the shaped score."""
    advantages: list[float]
    """Generalised advantage estimates, before whitening."""
    returns: list[float]
    """Advantage plus value: what the critic learns."""
    score: float
    """The reward model's scalar, before shaping."""
    finish_reason: Literal["eos", "length", "stop"]
    """Why the response ended: EOS, the length limit, or a stop string."""
    policy: Text
    """The policy that sampled, such as `name@version`."""
    reward_model: Text
    """The reward model that scored, such as `name@version`."""
    step: int = Field(ge=0)
    """The PPO step."""
    seed: int = Field(ge=0)
    """The run's sampling seed."""
    prompt_id: int | None = Field(None, ge=0)
    """The prompt's row in the training split, from 0."""
    sample_index: int = Field(0, ge=0)
    """Which of the prompt's samples this is, from 0."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Score by source, where several sources make up `score`."""
    shaped_score: float | None = None
    """The score after clipping, normalisation and penalties."""
    engine_logprobs: list[float] | None = None
    """The generation engine's own log-probabilities; absent where it gives none."""
    importance_weights: list[float] | None = None
    """What each token's policy loss was multiplied by: the trainer's probability over the engine's, truncated; absent where the engine computes as the trainer does."""
    kl_coef: float | None = Field(None, ge=0)
    """The KL coefficient in force when this was sampled."""
    bootstrap_value: float | None = None
    """The critic's value after the last token of a response that was cut, where it stands for the rest; else 0."""
    metadata: Metadata = Field(default_factory=dict)
    """The prompt's metadata; carried along, never trained on."""

    @model_validator(mode="after")
    def _one_number_a_token(self) -> "RolloutRecord":
        num_tokens = len(self.response_ids)
        lengths = {name: len(value) for name in _PER_TOKEN if (value := getattr(self, name)) is not None}
        wrong = {name: length for name, length in lengths.items() if length != num_tokens}
        if wrong:
            raise PydanticCustomError(
                "length_mismatch",
                "response_ids has {num_tokens} tokens, but {wrong}",
                {
                    "field": next(iter(wrong)),
                    "num_tokens": num_tokens,
                    "wrong": ", ".join(f"{name} has {length}" for name, length in wrong.items()),
                },
            )
        return self
