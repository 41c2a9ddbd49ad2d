"""PPO: Proximal Policy Optimization (Schulman et al. 2017) on a reward model's score minus a KL penalty (Ziegler et al. 2019)."""

from typing import Literal

from pydantic import Field

from rlhf.recipe.base import ArtefactName, Section, Seed
from rlhf.recipe.evaluation import EvaluationSection, WatchSection
from rlhf.recipe.rewards import RewardSource, ShapingSection
from rlhf.recipe.vllm import VLLMSection

Schedule = Literal["linear", "cosine", "constant"]


class KLSection(Section):
    """The penalty that holds the policy near the SFT model."""

    coef: float = Field(default=0.05, ge=0)
    """KL coefficient (beta); the initial one where `target` is set."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Per-token estimator: k1 = log p - log p_ref, k2 = (log p - log p_ref)^2 / 2, k3 = r - 1 - log r with r = p_ref / p (Schulman, "Approximating KL")."""
    place: Literal["reward", "loss"] = "reward"
    """In the reward (k1, k3), where the critic sees it, or in the loss (k2, k3), where its gradient is direct."""
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
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus: sample from the likeliest tokens that make up this probability; log-probabilities are then taken over the same tokens."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Sample only tokens at least this share as likely as the likeliest; log-probabilities are then taken over the same tokens."""
    stop: list[str] = Field(default_factory=list[str])
    """Texts that end a response besides EOS; the tokens that complete one belong to the response."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Responses to each prompt of a step; global_batch_size counts responses."""
    replay: str | None = None
    """A folder of recorded rollouts (`<run>/ppo/rollouts`): its responses and numbers are taken in place of generation, to debug the update alone."""
    engine: Literal["auto", "hf", "graph", "vllm"] = "auto"
    """Rollout engine: `hf` decodes with transformers' growing cache and runs everywhere; `graph` decodes in CUDA graphs over a fixed cache and fills the places of responses that have ended; `auto` takes `graph` on a GPU if it can, else `hf`, and says which in the log; `vllm` samples with vLLM, where it is installed, and weighs what it sampled (docs/ppo.md)."""
    vllm: VLLMSection | None = None
    """Settings of `engine: vllm`; its defaults where left out."""

    @property
    def vllm_settings(self) -> VLLMSection:
        """Those of `engine: vllm`, given or not."""
        return self.vllm or VLLMSection()


class PPOSection(Section):
    """PPO over Accelerate. One step: sample `global_batch_size` responses, then `num_epochs` passes of `num_minibatches` updates."""

    reward_model: str | None = None
    """Reward model to use instead of this recipe's: `registry:NAME@VERSION`, a local folder or a hub id; one label."""
    rewards: list[RewardSource] = Field(default_factory=list[RewardSource])
    """Several sources of scores, in place of `reward_model`."""
    combine: Literal["sum", "mean", "min"] = "sum"
    """How the sources' weighted scores become one: their sum, their mean, or the lowest (a cautious ensemble: Coste et al. 2023)."""
    num_steps: int = Field(ge=1)
    """Rollout-and-update steps; episodes in all = num_steps x global_batch_size."""
    global_batch_size: int = Field(ge=1)
    """Responses sampled in one step, over all processes."""
    num_minibatches: int = Field(4, ge=1)
    """Optimizer updates in one epoch; each sees global_batch_size / num_minibatches responses."""
    num_epochs: int = Field(4, ge=1)
    """Passes over one step's rollouts."""
    per_device_batch_size: int = Field(ge=1)
    """Responses in one forward and backward pass of one process. Where memory runs out the pass is cut in halves and goes on."""
    per_device_tokens: int | Literal["auto"] | None = Field(None)
    """In place of a number of responses, the most tokens in one pass, prompts and padding included; `auto` starts with a process's whole share of a minibatch and cuts it finer where memory runs out. What was found is kept through a resume."""
    per_device_rollout_batch_size: int | None = Field(None, ge=1)
    """Responses in one generation or scoring pass of one process; per_device_batch_size where left out."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW for policy and critic."""
    critic_learning_rate: float | None = Field(None, gt=0)
    """The critic's own peak; learning_rate where left out."""
    schedule: Schedule = "linear"
    """How the learning rate goes from its peak to the floor."""
    critic_schedule: Schedule | None = None
    """The critic's own; schedule where left out."""
    warmup_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the steps in which the learning rate rises linearly; all updates of one step have the same rate."""
    lr_floor_fraction: float = Field(0.0, ge=0, le=1)
    """The share of the peak at which the learning rate ends."""
    adam_eps: float = Field(1e-5, gt=0)
    """AdamW's epsilon; 1e-5 as in the reference implementations (Huang et al. 2024)."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this global norm."""
    clip_gradients: Literal["joint", "per_role"] = "joint"
    """Norm over policy and critic together, or each by its own, so that a critic with large gradients does not slow the policy."""
    on_spike: Literal["stop", "rollback"] = "stop"
    """What a spike does: stop, or go back to the last checkpoint, pass over the steps since then with their rows (`skipped.jsonl` lists them), and go on."""
    spike_factor: float | None = Field(None, gt=1)
    """A spike is a gradient norm above this many times the median of the 64 updates before it; where left out, only one that is not finite."""
    max_rollbacks: int = Field(2, ge=0)
    """Stop at the next spike after so many rollbacks."""
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
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the mean entropy a token, added as a bonus; against a policy that narrows too early."""
    dual_clip: float | None = Field(None, gt=1)
    """Bound on the ratio where the advantage is negative (Ye et al. 2020, eq. 5)."""
    target_kl: float | None = Field(None, gt=0)
    """Leave out the rest of a step's updates once a minibatch's approxkl from the sampling policy exceeds this."""
    ptx_coef: float = Field(0.0, ge=0)
    """PPO-ptx: weight of the SFT loss on `data.sft.train`, added in the same optimizer step (Ouyang et al. 2022, eq. 2); against forgetting."""
    ptx_batch_size: int = Field(32, ge=1)
    """SFT rows in one optimizer step, over all processes."""
    bootstrap_truncated: bool = False
    """Where a response was cut at max_new_tokens, let the critic's value after its last token stand for the rest; else it counts as finished."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Evaluate and publish an exponential moving average of the policy, with this decay a step."""
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
    """Longest prompt, in tokens."""
    over_length: Literal["error", "drop", "truncate"] = "error"
    """What to do with longer prompts: stop and list them, leave them out (counted), or cut them (counted): a dialogue's oldest turns go, its system message and newest turns stay; a text keeps its newest tokens. A newest turn that is too long by itself, such as a text that `data.chat` wraps, is left out (counted)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    compile: bool = False
    """Let torch.compile fuse the layers of all models, those of the `graph` engine too: about a minute once, at the first step. A resumed run may then differ from an uninterrupted one by rounding."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights, gradients and optimizer state. `bfloat16` takes half the memory, and at usual learning rates most updates are too small to change a weight: for comparisons. Under adapters it is the frozen base alone that is rounded, which costs little. Heads stay float32."""
    backbone: Literal["separate", "shared"] = "separate"
    """shared: policy, reference, critic and reward model are adapters and heads on one copy of the base's weights (Santacroce et al. 2023); the result is the same."""
    offload_frozen: bool = False
    """Keep reference and reward models in the CPU's memory and bring them to the GPU only while they are asked."""
    eval_every_steps: int = Field(20, ge=1)
    """Steps between two evaluations on the held-out prompts."""
    evaluation: EvaluationSection = EvaluationSection()
    """Evaluation, selection, early stop."""
    watch: WatchSection = WatchSection()
    """Watchdogs."""
    save_every_steps: int = Field(20, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints to keep."""
    max_ratio_deviation: float | None = Field(None, gt=0)
    """Stop when mean |log ratio| on a step's first minibatch exceeds this; 1e-5 in float32, 0.02 in bfloat16 where left out."""
    seed: Seed | None = None
    """Seed of this stage; the recipe's where left out."""
    publish_as: ArtefactName | None = None
    """The artefact's name in the registry; `<recipe name>-ppo` where left out."""

    @property
    def rollout_batch_size(self) -> int:
        """Responses in one generation or scoring pass of one process."""
        return self.per_device_rollout_batch_size or self.per_device_batch_size
