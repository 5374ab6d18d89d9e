"""The plugin's errors: each says what was wrong, with which value, and what to do now."""


class PspnetPluginError(Exception):
    """Base class of every error that the plugin raises on purpose."""


class PredictionError(PspnetPluginError):
    """A model cannot be made ready, or nothing can be predicted as asked."""


class ImageError(PredictionError):
    """One image cannot be read or predicted; the message names it.

    Attributes:
        name: the image, as it was given.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str = '') -> None:
        # A worker of a data loader hands on the message alone.
        super().__init__(f'{name}: {reason}' if reason else name)
        self.name, self.reason = name, reason
