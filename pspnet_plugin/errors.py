"""The plugin's errors: each says what was wrong, with which value, and what to do now."""


class PspnetPluginError(Exception):
    """Base class of every error that the plugin raises on purpose."""
