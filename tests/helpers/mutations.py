"""Files that something has changed, as disks, transfers and people with bad intentions do."""

from __future__ import annotations

from random import Random

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(whole: bytes, chance: Random) -> bytes:
    """``whole`` after one to four changes: bits, bytes, numbers, and parts cut, doubled, moved."""
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(data) or 1)
        length = min(chance.choice((1, 4, 8, 64)), len(data) - place)
        part = data[place : place + length]
        kind = chance.choice(('bit', 'byte', 'number', 'cut', 'double', 'remove', 'move', 'zero'))
        if kind == 'bit' and data:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 'byte' and data:
            data[place] = chance.randrange(256)
        elif kind == 'number':
            data[place : place + length] = bytes([chance.choice(EXTREMES)]) * length
        elif kind == 'cut':
            del data[place:]
        elif kind == 'double':
            data[place:place] = part
        elif kind == 'remove':
            del data[place : place + length]
        elif kind == 'move':
            there = chance.randrange(len(data) + 1)
            data[there : there + length] = part
        else:
            data[place : place + length] = bytes(length)
    return bytes(data)
