#!/usr/bin/env bash
# sbatch launch/clusters/slurm.sh configs/CONFIG.yaml [a.b=c ...], from the checkout with its .venv on shared storage.
# Whole nodes, one Ray node on each; requeued until the run is done or fails. docs/clusters.md leads through it.
#SBATCH --job-name=int-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=int-ray-%j.log
#SBATCH --signal=B:TERM@300
set -euo pipefail
umask 077

root=$SLURM_SUBMIT_DIR
export PATH="$root/.venv/bin:$PATH"
state=$(mktemp -d "$root/.int-ray-job-$SLURM_JOB_ID.XXXXXX")
trap 'rm -rf "$state"' EXIT

# Closed with a token of this job's own, which its nodes read from a file that only you can read.
python -c 'import secrets; print(secrets.token_hex(32))' > "$state/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token"
export RAY_process_group_cleanup_enabled=true RAY_USAGE_STATS_ENABLED=0
# Keys, as lines NAME=value: never on a command line, which other users of the nodes can read.
if [ -f "$HOME/.int-ray/keys.env" ]; then
    set -a
    . "$HOME/.int-ray/keys.env"
    set +a
fi

# The first node is the head, and the one that this script runs on.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
address=$(getent ahostsv4 "$head" | awk 'NR == 1 {print $1}'):$port

srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_NNODES" --num-gpus="${SLURM_GPUS_ON_NODE:-8}" \
    --include-dashboard=false \
    -- bash -c 'echo $$ > "$0" && exec python -m launch.cli train "$@" --resume auto' "$state/pid" "$@" &
step=$!

# Slurm warns 300 s before the time is up: the run exits with 75, and the job is queued again to go on from the last
# checkpoint. A run that has not begun cannot be warned.
trap '[ ! -s "$state/pid" ] || kill -TERM "$(cat "$state/pid")" || true' TERM
code=0
wait "$step" || code=$?
if [ "$code" -gt 128 ] && kill -0 "$step" 2>/dev/null; then
    code=0
    wait "$step" || code=$?
fi
# symmetric-run exits with 0 even if Ray did not start.
if [ ! -s "$state/pid" ] && [ "$code" -eq 0 ]; then
    echo "error: Ray did not start, so there was no run; its messages are above" >&2
    code=1
fi
# Death by a signal (kill -9, no memory left) is 128 plus its number, or 256 less it where symmetric-run tells it. The
# job is queued again too, unless it has been so 20 times, for whatever reason: it might die at once for ever. Not on
# 143, the SIGTERM with which scancel ends it.
if [ "$code" -eq 75 ] || { [ "$code" -gt 128 ] && [ "$code" -ne 143 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
