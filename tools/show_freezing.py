"""Show what a config freezes, when, and with which learning rates the rest trains."""

import argparse
import sys

from mmengine.config import Config, DictAction

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.freezing.preview import as_table, draw, preview


def show(arguments: argparse.Namespace) -> None:
    """Print the timeline of a config, and draw it where ``--out`` says."""
    config = Config.fromfile(arguments.config)
    config.merge_from_dict(arguments.cfg_options or {})
    shown = preview(config)
    print(as_table(shown))
    if arguments.out:
        draw(shown, arguments.out)
        print(f'Written: {arguments.out}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config with a LayerFreezeHook in custom_hooks')
    parser.add_argument('--out', help='also write the timeline as an image (.png, .svg, .pdf)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as in train.py')
    try:
        arguments = parser.parse_args()
    except ValueError:  # of DictAction
        parser.error('--cfg-options takes KEY=VALUE')
    try:
        show(arguments)
    except (PspnetPluginError, OSError) as error:
        sys.exit(f'error: {error}')
    except Exception as error:  # whatever mmengine raises for a config that it cannot build
        message = ' '.join(str(error).split())
        sys.exit(f'error: {arguments.config}: {type(error).__name__}: {message}')


if __name__ == '__main__':
    main()
