"""Sources of scores: reward models, Python functions, HTTP services, and their combination; see docs/rewards.md."""
