#!/usr/bin/env bash
# Train with Slurm:   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]
# Set GPUS, GPUS_PER_NODE, CPUS_PER_TASK, and SRUN_ARGS for other options of srun.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n 's/^# \{0,1\}//p' "$0" | sed -n 2,3p >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3
shift 3
# One port for all processes of this job, another than that of its neighbours on a machine.
export MASTER_PORT="${MASTER_PORT:-$((20000 + RANDOM % 10000))}"
# A process that fails ends the job. SRUN_ARGS is several words.
# shellcheck disable=SC2086
exec srun \
    --partition="$partition" --job-name="$job_name" \
    --gres="gpu:${GPUS_PER_NODE:-4}" --ntasks="${GPUS:-4}" --ntasks-per-node="${GPUS_PER_NODE:-4}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@"
