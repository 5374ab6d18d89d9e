"""What can go wrong between a reference and the weights in a module."""

from __future__ import annotations

from typing import Any

from ..errors import PspnetPluginError


class PretrainedWeightsError(PspnetPluginError):
    """The weights were not loaded; the module is as it was.

    ``report`` is the :class:`LoadReport` of the attempt, None where it did not come as far as that.
    """

    def __init__(self, message: str, report: Any = None):
        super().__init__(message)
        self.report = report


class WeightsFileError(PretrainedWeightsError):
    """A file that is not a whole file of weights."""


class UnsafeWeightsError(WeightsFileError):
    """A file that holds more than data, so that reading it could run code."""
