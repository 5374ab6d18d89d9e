"""Files that something has changed, as disks, transfers and people with bad intentions do.

``python -m tests.campaigns.mutations 1000`` loads a thousand of each format and tells what became
of them: how many loaded, how many were refused, which crashed, which took longer than ten seconds,
and the most memory that one took, in sizes of the file (Linux only).
"""

from __future__ import annotations

import collections
import io
import signal
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import safetensors.torch
import torch
from torch import nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained

FORMATS = ('zip', 'pickle in a zip', 'old pickle', 'safetensors')
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)
EDGE = 2000  # bytes at both ends of a file, where its tables and names are


def network(width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, width, 3))


def zipped_again(file: Path, method: int) -> Path:
    """A copy of a zip file with the entries packed by another ``method`` of ``zipfile``."""
    again = file.with_name('again.pth')
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(again, 'w', method) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    return again


def mutated(whole: bytes, chance: Random) -> bytes:
    """``whole`` after one to four changes: bits, bytes, numbers, and parts cut, doubled, moved."""
    data = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place, there = _place(len(data), chance), _place(len(data), chance)
        part = slice(place, place + chance.choice((1, 4, 8, 64)))
        old = bytes(data[part])
        changes = {
            'bit': bytes(byte ^ 1 << chance.randrange(8) for byte in old[:1]) + old[1:],
            'byte': bytes([chance.randrange(256)]) + old[1:],
            'number': bytes([chance.choice(EXTREMES)]) * len(old),
            'double': old * 2,
            'remove': b'',
            'move': bytes(data[there : there + len(old)]),
        }
        kind = chance.choice(('cut', *changes))
        if kind == 'cut':
            del data[place:]
        else:
            data[part] = changes[kind]
    return bytes(data)


def _place(size: int, chance: Random) -> int:
    edge = min(EDGE, size)
    begin, end = chance.choice(((0, size), (0, edge), (size - edge, size)))
    return chance.randrange(begin, max(end, begin + 1))


def mutated_files(kind: str, count: int, folder: Path, width: int = 8) -> Iterator[Path]:
    """``count`` files of a format with the weights of :func:`network`, one after the other."""
    weights, chance = network(width).state_dict(), Random(0)
    path = folder / f'weights{".safetensors" if kind == "safetensors" else ".pth"}'
    buffer = io.BytesIO()
    torch.save(weights, buffer, _use_new_zipfile_serialization=kind != 'old pickle')
    whole = safetensors.torch.save(weights) if kind == 'safetensors' else buffer.getvalue()
    for _ in range(count):
        if kind == 'pickle in a zip':  # whose checksums agree
            _write_with_mutated_pickle(whole, path, chance)
        else:
            path.write_bytes(mutated(whole, chance))
        yield path


def _write_with_mutated_pickle(whole: bytes, path: Path, chance: Random) -> None:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(path, 'w') as other:
        for name in archive.namelist():
            data = archive.read(name)
            other.writestr(name, mutated(data, chance) if name.endswith('data.pkl') else data)


# --- many of them -------------------------------------------------------------------------------


def _peak() -> int:
    """The most bytes of memory that this process held since it was last asked, without files."""
    lines = Path('/proc/self/status').read_text().splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))
    Path('/proc/self/clear_refs').write_text('5')
    return kibibytes << 10


def _try(path: Path, module: nn.Module) -> str:
    signal.alarm(10)
    try:
        load_pretrained(module, str(path))
        return 'loaded'
    except PretrainedWeightsError:
        return 'refused'
    except TooSlow:
        return 'HANG'
    except Exception as error:
        return f'CRASH {type(error).__name__}: {str(error)[:100]}'
    finally:
        signal.alarm(0)


class TooSlow(BaseException):
    """Passes every ``except Exception``."""


def _too_slow(*_: object) -> None:
    raise TooSlow


def main(count: int) -> None:
    signal.signal(signal.SIGALRM, _too_slow)
    for kind in FORMATS:
        outcomes: collections.Counter = collections.Counter()
        most = 0.0
        with tempfile.TemporaryDirectory() as folder:
            module = network(512)
            for path in mutated_files(kind, count, Path(folder), width=512):
                _peak()
                before = _peak()
                outcomes[_try(path, module)] += 1
                most = max(most, (_peak() - before) / (9 * 512 * 512 * 4))
        print(f'{kind}: {dict(outcomes)}, at most {most:.2f} times the file in memory', flush=True)


if __name__ == '__main__':
    main(int(sys.argv[1]))
