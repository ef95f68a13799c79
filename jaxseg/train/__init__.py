"""Training: the job built from a resolved config, the loop, the training step, its state, devices and processes."""
