"""Transforms for the pipelines of datasets."""

from .check_labels import CheckLabels
from .load_raster import LoadRaster

__all__ = ['CheckLabels', 'LoadRaster']
