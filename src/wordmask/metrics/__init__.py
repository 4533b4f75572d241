"""Metrics of segmentation, all from counts in integers."""
