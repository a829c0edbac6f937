"""The training loop and its parts: samples, augmentation, losses, checkpoints, processes, inference."""
