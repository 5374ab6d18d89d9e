"""A trained network as a file that runs without PyTorch, mmseg or this plugin."""

from .settings import ExportError, ExportSettings
from .write import ExportReport, export_model

__all__ = ['ExportError', 'ExportReport', 'ExportSettings', 'export_model']
