#!/usr/bin/env bash
# Lint, types, layers, tests; all that has to be green. Arguments go to pytest, in place of `-n 2`.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/environment.sh
ruff check .
ruff format --check .
pyright
lint-imports
[ $# -gt 0 ] || set -- -n 3
# Two test processes share two cores: more threads than that only wait for each other.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest "$@"
