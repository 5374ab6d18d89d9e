"""Legends below pictures: the names of classes, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from pspnet_plugin.app.images.drawing import with_legend
from pspnet_plugin.app.images.fonts import characters_of, drawable

PICTURE = np.zeros((40, 300, 3), np.uint8)
DEJAVU = font_manager.findfont('DejaVu Sans')


def legend(*names):
    return with_legend(PICTURE, names, [(255, 0, 0)] * len(names))


@pytest.mark.parametrize('name', ['a\nb', 'a\r\n b', '\ta  b', 'a\u2028b'])
def test_a_line_break_in_a_name_is_a_blank(name):
    np.testing.assert_array_equal(legend(name, 'c'), legend('a b', 'c'))


@pytest.mark.parametrize('name', ['道路', '木 x', '\ue123', '🌳'])
def test_names_are_drawn_with_a_font_that_has_them_or_in_ascii(name):
    text, path = drawable(name)
    assert text == name or text.isascii()
    assert all(FT2Font(path).get_char_index(ord(letter)) for letter in text)
    # As PIL draws it with that font, beside the box of the colour.
    expected = Image.new('RGB', (300, 66), 'white')
    font = ImageFont.truetype(path, 14)
    ImageDraw.Draw(expected).text((26, 60), text, 'black', font, anchor='ls')
    np.testing.assert_array_equal(legend(name)[44:66, 24:], np.asarray(expected)[44:66, 24:])


def test_a_font_is_looked_for_among_those_that_are_installed(monkeypatch, tmp_path):
    """Latin letters are taken from DejaVu; for others, the first font that has them counts."""
    stix = next(f.fname for f in font_manager.fontManager.ttflist if f.name == 'STIXGeneral')
    letter = chr(min(characters_of(stix) - characters_of(DEJAVU)))
    broken = tmp_path / 'broken.ttf'
    broken.write_bytes(b'no font')
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [str(broken), stix])
    drawable.cache_clear()
    assert drawable(f'a{letter}') == (f'a{letter}', stix)
    assert drawable('ab') == ('ab', DEJAVU)
    assert drawable(f'{letter}道')[1] == DEJAVU
    drawable.cache_clear()


def test_no_names_are_no_legend():
    assert legend().shape[1] == PICTURE.shape[1]
