#!/usr/bin/env bash
# One run over several nodes with Slurm: sbatch --nodes=2 launch/slurm.sh --config=configs/ich_segnext.py [flags of jaxseg.main]
# One task per node; each drives all the GPUs of its node. jaxseg reads SLURM_PROCID and friends by itself.
# On time limit or preemption Slurm sends SIGTERM: the run saves, ends with 42, and is put back in the queue, as it is when a node
# was lost (MAX_RESTARTS times, 20).
#SBATCH --job-name=jaxseg
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
. launch/requeue.sh
export PYTHONUNBUFFERED=1
srun --kill-on-bad-exit=0 "${PYTHON:-python}" -m jaxseg.main "$@"
code=$?
requeue "$code"
exit "$code"
