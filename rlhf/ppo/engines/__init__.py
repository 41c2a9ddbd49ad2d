"""Rollout engines: each turns prompts and noise into responses through `GenerationEngine`."""
