"""The one training loop and what it stands on: samples, augmentation, losses, checkpoints, processes, inference."""
