"""Tokenizers, token sequences, and the networks: causal LM, reward model, actor-critic."""
