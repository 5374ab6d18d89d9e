"""What a run prints: long log entries of mmengine as one line; the log file has them in full."""

from __future__ import annotations

import copy
import logging

LONGEST = 6  # lines; what mmengine says of a run in progress is shorter


class FoldingFormatter(logging.Formatter):
    """Formats as ``formatter`` does and folds what mmengine's runner says in many lines.

    These are the system's environment, the whole config and the order of the hooks.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """The first line with text in it, and how many more there are."""
        lines = [line for line in record.getMessage().splitlines() if line.strip(' -')]
        if record.levelno == logging.INFO and record.module == 'runner' and len(lines) > LONGEST:
            record = copy.copy(record)
            record.msg = f'{lines[0].rstrip(":")} … ({len(lines) - 1} more lines in the log file)'
            record.args = None
        return self._formatter.format(record)


def fold_console(logger: logging.Logger) -> None:
    """Fold long entries of a run's ``logger`` where they are printed, not in its file."""
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler and handler.formatter is not None:
            handler.setFormatter(FoldingFormatter(handler.formatter))
