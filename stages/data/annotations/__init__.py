"""Annotation files of annotation programs, drawn as index masks: COCO, LabelMe, CVAT and Supervisely."""
