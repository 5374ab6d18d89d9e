"""Transforms for the pipelines of datasets."""

from .check_labels import CheckLabels

__all__ = ['CheckLabels']
