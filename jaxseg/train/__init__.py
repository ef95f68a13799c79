"""Training: from a resolved config to a job, the loop, one pure step, its state, devices and processes."""
