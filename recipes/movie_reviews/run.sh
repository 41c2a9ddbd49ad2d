#!/usr/bin/env bash
# The film reviews from data to an aligned model, one stage after the other; from the repository's root, in its
# environment. `rlhf run RECIPE` alone runs the three stages too. RECIPE: another file of this folder.
# Arguments go to every `rlhf run`, such as --set workspace=/scratch/me.
set -euo pipefail
cd "$(dirname "$0")/../.."
recipe=${RECIPE:-recipes/movie_reviews/quickstart.yaml}

# 1. The data: 9,145 reviews, 7,757 rated pairs and 440 prompts to train on; 22 films are held out.
python recipes/movie_reviews/data.py

# 2. Supervised fine-tuning: the model learns to write such sentences.
rlhf run "$recipe" --stage sft "$@"

# 3. The reward model: it learns which of two sentences people rated higher.
rlhf run "$recipe" --stage reward "$@"

# 4. PPO: the model learns to write what the reward model likes, held near the SFT model.
rlhf run "$recipe" --stage ppo "$@"

# Did it work, and at what price? Needs the extra `movie-reviews`:
#   python recipes/movie_reviews/evaluate.py recipes/movie_reviews/quickstart.yaml
