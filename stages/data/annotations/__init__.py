"""Annotation files of drawing programs, drawn as index masks: COCO, LabelMe, CVAT and Supervisely."""
