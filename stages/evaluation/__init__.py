"""Scores masks, label maps and class scores against the ground truth."""
