"""The training loop, the step, the loss, checkpoints and the work directory, independent of the task."""
