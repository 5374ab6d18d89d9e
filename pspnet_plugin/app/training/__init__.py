"""Training and testing by the stock tools: checks before a run, what it prints, when it stops."""

from pathlib import Path


def stock_tools() -> Path:
    """The folder of the installed MMSegmentation's tools."""
    import mmseg

    return Path(mmseg.__file__).parent / '.mim' / 'tools'
