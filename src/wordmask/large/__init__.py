"""Pictures of any size: tiles in, one map of labels out (GeoTIFF, GeoPackage, GeoJSON)."""

from wordmask.large.job import segment_large

__all__ = ["segment_large"]
