"""Readers of data sets: the embedded shapes, PASCAL VOC with SBD, lists and image-level labels."""
