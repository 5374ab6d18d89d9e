"""Where the command lines lie that the plugin starts or names."""

from __future__ import annotations

from pathlib import Path

from ...utils.config_files import shipped

OWN_TOOLS = shipped('tools')


def stock_tools() -> Path:
    """The folder of the installed MMSegmentation's tools."""
    import mmseg

    return Path(mmseg.__file__).parent / '.mim' / 'tools'
