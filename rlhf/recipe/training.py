"""SFT and reward-model training."""

from typing import Literal

from pydantic import Field

from rlhf.recipe.base import ArtefactName, Section, Seed


class TrainingSection(Section):
    """What SFT and reward modelling share. AdamW, linear warm-up, cosine decay to a floor, clipping by the global norm."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    num_epochs: float = Field(1.0, gt=0)
    """Passes over the training split."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps; overrides `num_epochs`."""
    global_batch_size: int = Field(ge=1)
    """Rows (pairs for the reward model) in one optimizer step, over all processes."""
    per_device_batch_size: int = Field(ge=1)
    """Rows in one forward pass of one process; accumulation follows from the global size."""
    max_length: int = Field(1024, ge=8)
    """Longest prompt plus completion, in tokens."""
    over_length: Literal["error", "drop", "truncate"] = "error"
    """What to do with longer rows: stop and list them, leave them out (counted), or cut them (counted): a dialogue's oldest turns go, its system message and newest turns stay; what is still too long loses its end."""
    warmup_fraction: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    lr_floor_fraction: float = Field(0.1, ge=0, le=1)
    """The cosine ends at this share of the peak learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this global norm."""
    on_spike: Literal["stop", "rollback"] = "stop"
    """What a spike does: stop, or go back to the last checkpoint, pass over the steps since then with their rows (`skipped.jsonl` lists them), and go on."""
    spike_factor: float | None = Field(None, gt=1)
    """A spike is a gradient norm above this many times the median of the 64 steps before it; where left out, only one that is not finite."""
    max_rollbacks: int = Field(2, ge=0)
    """Stop at the next spike after so many rollbacks."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about 20-30% more time."""
    eval_every_steps: int = Field(100, ge=1)
    """Steps between two evaluations on the held-out split."""
    save_every_steps: int = Field(100, ge=1)
    """Steps between two checkpoints; at most so much work is lost."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints to keep; the best one is kept besides."""
    select_best: bool = True
    """Publish the checkpoint with the best held-out metric (SFT: loss; reward: accuracy), not the last; needs an eval split."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations without a better one."""
    seed: Seed | None = None
    """Seed of this stage; the recipe's where left out."""
    publish_as: ArtefactName | None = None
    """The artefact's name in the registry; `<recipe name>-<stage>` where left out."""


class SFTSection(TrainingSection):
    """Supervised fine-tuning over TRL's SFTTrainer; the loss covers assistant turns (or the completion) alone."""

    dropout: bool = False
    """Keep the model's own dropout on."""


class RewardSection(TrainingSection):
    """Reward model over TRL's RewardTrainer: Bradley-Terry loss on pairs (Ouyang et al. 2022, eq. 1); dropout off."""

    margin: Literal["ignore", "loss"] = "ignore"
    """What a pair's `margin` does: nothing, or it is subtracted inside the loss's sigmoid (Touvron et al. 2023, eq. 2)."""
    center_rewards_coefficient: float | None = Field(None, ge=0)
    """Weight of (r_chosen + r_rejected)^2 in the loss, which keeps scores around 0 (Eisenstein et al. 2023)."""
    num_reference_samples: int = Field(256, ge=0)
    """Completions of the SFT model that are scored for the mean and standard deviation kept in the manifest; 0: none."""
