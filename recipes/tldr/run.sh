#!/usr/bin/env bash
# Summaries of Reddit posts with Pythia-1B, one stage after the other; from the repository's root, in its environment.
# Data and model come from the hub, pinned to their commits when the run begins. Arguments, such as
# --set workspace=/scratch/me, go to every command.
set -euo pipefail
cd "$(dirname "$0")/../.."
recipe=${RECIPE:-recipes/tldr/pythia-1b.yaml}

# 0. Every row of every split, before a GPU is touched.
rlhf validate "$recipe" "$@"

# 1. Supervised fine-tuning on people's own summaries.
rlhf run "$recipe" --stage sft "$@"

# 2. The reward model, on 92,858 comparisons of two summaries.
rlhf run "$recipe" --stage reward "$@"

# 3. PPO, a million episodes.
rlhf run "$recipe" --stage ppo "$@"
