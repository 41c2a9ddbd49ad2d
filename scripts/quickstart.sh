#!/usr/bin/env bash
# From a fresh clone to an aligned model: environment, data, then SFT, reward model and PPO on 2 CPU cores.
# Call it again to go on after an interruption. Arguments go to `rlhf run`, such as --set workspace=/scratch/me.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/environment.sh
python recipes/movie_reviews/data.py
started=$SECONDS
rlhf run recipes/movie_reviews/quickstart.yaml "$@"

cat <<END

Done in $((SECONDS - started)) s without the installation. The table above says where each model is.
  environment   $VIRTUAL_ENV  (. $VIRTUAL_ENV/bin/activate)
  data          $PWD/recipes/movie_reviews/data
  registry      rlhf registry list
  was it good?  python recipes/movie_reviews/evaluate.py recipes/movie_reviews/quickstart.yaml
  own data      README.md
END
