#!/bin/bash
# A recipe on all GPUs of this machine, one process each:
#
#   scripts/gpus.sh RECIPE [further arguments of `rlhf run`]
#
# CUDA_VISIBLE_DEVICES chooses among them. After a stop that nobody asked this script for, such as one GPU's process that
# was told to save and end, it goes on at the checkpoint; asked to stop itself, it saves and ends with 75: call it again.
# What brings a preempted machine back, such as a service of the system, calls it again. Several machines: slurm.sh.
set -uo pipefail
readonly STOPPED_AFTER_SAVING=75

if [ $# -eq 0 ]; then
    sed -n '2,4p' "$0" >&2
    exit 2
fi
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
elif ! gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c .); then
    echo "error: nvidia-smi names no GPU on this machine. Without one: rlhf run $*" >&2
    exit 2
fi

arguments=("$@" --set "launch.num_processes=$gpus")
asked=
trap 'asked=yes; kill -TERM "$run" 2>/dev/null' TERM INT
code=$STOPPED_AFTER_SAVING
while [ "$code" -eq "$STOPPED_AFTER_SAVING" ] && [ -z "$asked" ]; do
    rlhf run "${arguments[@]}" &
    run=$!
    wait "$run"
    # A signal ends `wait` before the run has ended: wait until it really has.
    while kill -0 "$run" 2>/dev/null; do
        wait "$run"
    done
    wait "$run"
    code=$?
    for place in "${!arguments[@]}"; do
        # What goes on does not begin anew.
        [ "${arguments[place]}" != --fresh ] || unset "arguments[place]"
    done
done
exit "$code"
