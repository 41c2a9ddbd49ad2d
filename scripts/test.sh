#!/usr/bin/env bash
# Lint, types, layers, tests; all that has to be green. Arguments go to pytest, in place of `-n 3 --dist worksteal`.
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/environment.sh
ruff check .
ruff format --check .
pyright
lint-imports
# One worker would be left alone with the slowest files at the end, but for work that others take from it.
[ $# -gt 0 ] || set -- -n 3 --dist worksteal
# Two test processes share two cores: more threads than that only wait for each other.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest "$@"
