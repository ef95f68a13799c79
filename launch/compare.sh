#!/usr/bin/env bash
# The runs of a comparison spread over a Slurm array: sbatch --array=0-7 launch/compare.sh brats_compare --workdir=/shared/compare
# Every task runs the same command, with one GPU, and takes the runs that no other task has claimed in the shared folder; the last
# one writes the complete tables. More tasks than runs are of no use.
#SBATCH --job-name=jaxseg-compare
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
. launch/requeue.sh
export PYTHONUNBUFFERED=1
stopped=
trap 'stopped=1; [ -n "${!:-}" ] && kill -TERM $!' TERM # the shell gets the signal, and passes it on
"${PYTHON:-python}" -m jaxseg compare "$@" &
[ -n "$stopped" ] && kill -TERM $! # it came before there was anything to pass it to
wait $!
code=$?
[ "$code" -eq 143 ] && { wait $!; code=$?; } # the signal ended the first wait, not the command
requeue "$code"
exit "$code"
