#!/usr/bin/env bash
# A chat model on UltraFeedback, one stage after the other; from the repository's root, in its environment.
# RECIPE=recipes/ultrafeedback/llama-3.1-8b.yaml for the 8B model. Arguments, such as
# --set workspace=/scratch/me, go to every command.
set -euo pipefail
cd "$(dirname "$0")/../.."
recipe=${RECIPE:-recipes/ultrafeedback/qwen2.5-0.5b.yaml}

# 0. Every row of every split, before a GPU is touched.
rlhf validate "$recipe" "$@"

# 1. Supervised fine-tuning on the preferred answers.
rlhf run "$recipe" --stage sft "$@"

# 2. The reward model, on pairs of answers to one prompt.
rlhf run "$recipe" --stage reward "$@"

# 3. PPO on the prompts alone.
rlhf run "$recipe" --stage ppo "$@"
