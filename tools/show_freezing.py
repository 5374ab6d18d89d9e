"""Show what a config freezes, when, and with which learning rates the rest trains."""

import argparse

from mmengine.config import Config, DictAction

from pspnet_plugin.freezing.preview import as_table, draw, preview


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config with a LayerFreezeHook in custom_hooks')
    parser.add_argument('--out', help='also write the timeline as a picture (.png, .svg, .pdf)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as in train.py')
    arguments = parser.parse_args()

    config = Config.fromfile(arguments.config)
    config.merge_from_dict(arguments.cfg_options or {})
    shown = preview(config)
    print(as_table(shown))
    if arguments.out:
        draw(shown, arguments.out)
        print(f'Written: {arguments.out}')


if __name__ == '__main__':
    main()
