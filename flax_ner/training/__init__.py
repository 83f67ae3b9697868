"""Fine-tuning: mesh, optimizer, checkpoints and the loop."""
