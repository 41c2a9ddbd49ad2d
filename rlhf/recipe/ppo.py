"""PPO: Proximal Policy Optimization (Schulman et al. 2017) on a reward model's score minus a KL penalty (Ziegler et al. 2019)."""

from typing import Literal

from pydantic import Field

from rlhf.recipe.base import ArtefactName, Section, Seed


class KLSection(Section):
    """The penalty that holds the policy near the SFT model."""

    coef: float = Field(default=0.05, ge=0)
    """KL coefficient (beta); the initial one where `target` is set."""
    estimator: Literal["k1", "k3"] = "k1"
    """Per-token estimator in the reward: k1 = log p - log p_ref, k3 = r - 1 - log r (Schulman, "Approximating KL")."""
    target: float | None = Field(default=None, gt=0)
    """Nats a response; where set, the coefficient adapts to hold it (Ziegler et al. 2019, eq. 2.2)."""
    horizon: int = Field(default=10_000, ge=1)
    """Episodes over which the adaptive coefficient moves."""


class SamplingSection(Section):
    """How responses are sampled."""

    max_new_tokens: int = Field(ge=1)
    """Longest response, in tokens, EOS included."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature; log-probabilities of policy and reference are taken at it too."""
    engine: Literal["auto", "hf"] = "auto"
    """Rollout engine: `hf` decodes with transformers and runs everywhere; `auto` takes it and says so in the log."""


class ShapingSection(Section):
    """What happens to a score before the KL penalty, in this order: clip, normalise, missing-EOS penalty."""

    clip: float | None = Field(default=None, gt=0)
    """Clip scores to [-clip, clip]."""
    normalize: Literal["none", "reference"] = "none"
    """`reference`: subtract the mean and divide by the standard deviation that the reward model published for the SFT model's samples."""
    missing_eos: Literal["none", "subtract", "replace"] = "none"
    """What a response that did not end in time gets: nothing, its score minus the penalty, or minus the penalty in its place."""
    missing_eos_penalty: float = Field(default=1.0, ge=0)
    """The penalty, in units of the shaped score."""


class PPOSection(Section):
    """PPO over Accelerate. One step: sample `global_batch_size` responses, then `num_epochs` passes of `num_minibatches` updates."""

    reward_model: str | None = None
    """Reward model to use instead of this recipe's: `registry:NAME@VERSION`, a local folder or a hub id; one label, the policy's tokenizer."""
    num_steps: int = Field(ge=1)
    """Rollout-and-update steps; episodes in all = num_steps x global_batch_size."""
    global_batch_size: int = Field(ge=1)
    """Responses sampled in one step, over all processes."""
    num_minibatches: int = Field(4, ge=1)
    """Optimizer updates in one epoch; each sees global_batch_size / num_minibatches responses."""
    num_epochs: int = Field(4, ge=1)
    """Passes over one step's rollouts."""
    per_device_batch_size: int = Field(ge=1)
    """Responses in one forward and backward pass of one process."""
    per_device_rollout_batch_size: int | None = Field(None, ge=1)
    """Responses in one generation or scoring pass of one process; per_device_batch_size where left out."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW for policy and critic."""
    warmup_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which the learning rate rises linearly; all updates of one step have the same rate."""
    lr_floor_fraction: float = Field(0.0, ge=0, le=1)
    """The learning rate falls linearly to this share of the peak."""
    adam_eps: float = Field(1e-5, gt=0)
    """AdamW's epsilon; 1e-5 as in the reference implementations (Huang et al. 2024)."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients of policy and critic together are clipped to this global norm."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount."""
    lam: float = Field(0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation (Schulman et al. 2016)."""
    cliprange: float = Field(0.2, gt=0)
    """Clip range of the policy's ratio."""
    cliprange_value: float | None = Field(0.2, gt=0)
    """Clip range of the value; null: no clipping."""
    vf_coef: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    critic_warmup_steps: int = Field(0, ge=0)
    """First steps in which only the critic trains."""
    whiten_advantages: bool = True
    """Shift and scale advantages to mean 0, variance 1 over the global batch; returns stay unwhitened."""
    kl: KLSection = KLSection()
    """KL penalty."""
    sampling: SamplingSection
    """Sampling of responses."""
    shaping: ShapingSection = ShapingSection()
    """Score shaping."""
    max_prompt_length: int = Field(512, ge=1)
    """Longest prompt, in tokens; longer ones are refused."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    eval_every_steps: int = Field(20, ge=1)
    """Steps between two evaluations on the held-out prompts."""
    eval_samples_per_prompt: int = Field(4, ge=1)
    """Responses per held-out prompt in an evaluation."""
    save_every_steps: int = Field(20, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints to keep."""
    max_ratio_deviation: float | None = Field(None, gt=0)
    """Stop when mean |log ratio| on a step's first minibatch exceeds this; 1e-4 in float32, 0.02 in bfloat16 where left out."""
    seed: Seed | None = None
    """Seed of this stage; the recipe's where left out."""
    publish_as: ArtefactName | None = None
    """The artefact's name in the registry; `<recipe name>-ppo` where left out."""
