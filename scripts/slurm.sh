#!/bin/bash
# A recipe on one or several machines of a SLURM cluster:
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/slurm.sh RECIPE [further arguments of `rlhf run`]
#
# The recipe's workspace and this checkout lie on a disk that all machines share, and the environment that has `rlhf`
# is active where sbatch is called. Before a time limit or a preemption SLURM sends SIGTERM: `rlhf run` saves, exits with
# 75, and the job goes back into the queue, from where it goes on at that checkpoint. Beside NCCL the processes talk by
# gloo; where a machine's name leads to itself alone, GLOO_SOCKET_IFNAME names the network's interface.
#SBATCH --job-name=rlhf
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=rlhf-%j.log
set -uo pipefail
readonly STOPPED_AFTER_SAVING=75

if [ $# -eq 0 ]; then
    sed -n '2,4p' "$0" >&2
    exit 2
fi
: "${SLURM_JOB_ID:?is set by sbatch: call this through it}"

machines=${SLURM_JOB_NUM_NODES:-1}
launch=(--set "launch.num_processes=${SLURM_GPUS_ON_NODE:-1}")
if [ "$machines" -gt 1 ]; then
    # Ports of a job of its own: two jobs may share their first machine.
    port=$((20000 + SLURM_JOB_ID % 20000))
    launch+=(--set "launch.num_machines=$machines")
    launch+=(--set "launch.rendezvous=$(hostname):$port")
    launch+=(--set "launch.prefix=[srun, --ntasks-per-node=1, --kill-on-bad-exit=1]")
fi

arguments=()
for argument in "$@"; do
    # A job that comes back from the queue goes on: it must not begin anew.
    if [ "$argument" != --fresh ] || [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ]; then
        arguments+=("$argument")
    fi
done

rlhf run "${arguments[@]}" "${launch[@]}" &
run=$!
trap 'kill -TERM "$run" 2>/dev/null' TERM INT
wait "$run"
# A signal ends `wait` before the run has ended: wait until it really has.
while kill -0 "$run" 2>/dev/null; do
    wait "$run"
done
wait "$run"
code=$?
if [ "$code" -eq "$STOPPED_AFTER_SAVING" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
