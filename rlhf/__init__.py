"""Classical RLHF on the Hugging Face stack: SFT, reward model, PPO, chained, validated, resumable."""

__version__ = "0.1.0"
