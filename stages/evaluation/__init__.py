"""Figures of masks, label maps and scores against the truth."""
