# To be sourced: `requeue CODE` puts a Slurm job back in the queue if the same command resumes after this exit code.
# 42 saved after SIGTERM; 75 a process was lost or hangs; 134, 137, 143 a process was aborted, killed (a lost node, no memory) or
# ended by SIGTERM before it could say so: srun reports the highest code of its tasks, so that of the lost one, not the others' 75.
requeue() {
  case "$1" in 42 | 75 | 134 | 137 | 143) ;; *) return 0 ;; esac
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_RESTARTS:-20}" ]; then
    echo "not started again: MAX_RESTARTS=${MAX_RESTARTS:-20} is reached" >&2
    return 0
  fi
  scontrol requeue "$SLURM_JOB_ID"
}
