"""Pictures of label maps: over their image, and with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .fonts import drawable

FONT_SIZE, LINE, MARGIN = 14, 20, 6  # pixels
PAPER, INK = (255, 255, 255), (0, 0, 0)

Colours = Sequence[Sequence[int]]


def to_rgb(image: np.ndarray) -> np.ndarray:
    """An image, (H, W, C) or (H, W), as a picture, (H, W, 3) uint8 RGB.

    Three or more channels begin with blue, green and red; of two, the first is shown. What is not
    uint8 is stretched, unless it lies within 0 to 255; what is no number is 0.
    """
    pixels = image[..., None] if image.ndim == 2 else image
    pixels = pixels[..., 2::-1] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
    if pixels.dtype != np.uint8:
        pixels = np.where(np.isfinite(pixels), pixels, 0)
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 255:
            pixels = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-12))
        pixels = pixels.astype(np.uint8)
    return np.ascontiguousarray(pixels)


def draw_label_map(
    picture: np.ndarray, label_map: np.ndarray, palette: Colours, opacity: float
) -> np.ndarray:
    """The colours of a label map (H, W), with an opacity of 0 to 1, over a picture (H, W, 3).

    Labels without a colour leave the picture as it is.
    """
    has_colour = label_map < len(palette)
    colours = np.asarray(palette, dtype=np.uint8)[np.where(has_colour, label_map, 0)]
    drawn = cv2.addWeighted(picture, 1 - opacity, colours, opacity, 0)
    return drawn if has_colour.all() else np.where(has_colour[..., None], drawn, picture)


def with_legend(picture: np.ndarray, names: Sequence[str], palette: Colours) -> np.ndarray:
    """A picture (H, W, 3) and below it, in rows, the names of classes beside their colours."""
    lines, files = zip(*map(drawable, names)) if names else ((), ())
    fonts = [ImageFont.truetype(file, FONT_SIZE) for file in files]
    widths = [
        LINE + MARGIN + round(font.getlength(line)) + 2 * MARGIN for font, line in zip(fonts, lines)
    ]
    width = max([picture.shape[1], *widths])
    positions = flow(widths, width)
    rows = positions[-1][1] + 1 if positions else 0
    sheet = Image.new('RGB', (width, picture.shape[0] + rows * LINE + MARGIN), PAPER)
    sheet.paste(Image.fromarray(picture))
    pen = ImageDraw.Draw(sheet)
    for (left, row), font, line, colour in zip(positions, fonts, lines, palette):
        top = picture.shape[0] + MARGIN + row * LINE
        box = left + MARGIN, top, left + LINE, top + FONT_SIZE
        pen.rectangle(box, fill=tuple(colour), outline=INK)
        pen.text((left + LINE + MARGIN, top + FONT_SIZE), line, INK, font, anchor='ls')
    return np.asarray(sheet)


def flow(widths: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Left edge and row of entries that fill rows of at most ``limit`` pixels one after another."""
    positions, left, row = [], 0, 0
    for width in widths:
        if left and left + width > limit:
            left, row = 0, row + 1
        positions.append((left, row))
        left += width
    return positions
