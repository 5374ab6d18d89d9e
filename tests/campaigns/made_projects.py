"""Projects as people bring them: odd names, layouts, depths, bands, orientations and values.

``python -m tests.campaigns.made_projects 500`` makes as many folders of images and masks and takes
each through ``pspnet init``, ``check``, ten iterations of ``train``, ``predict`` and ``export``. A
project ends right, when the predicted labels are those of MMSegmentation's API on upright pixels,
or refused in one line that names a file or an option; whatever else happens is ``WRONG``.
``python -m tests.campaigns.made_projects 1 NUMBER`` makes one again. Linux only.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import re
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from random import Random

import cv2
import numpy as np
import rasterio
from mmengine.config import Config
from PIL import Image, ImageOps

import pspnet_plugin
from pspnet_plugin.app.commands import main as pspnet

SECONDS = 600  # for one project
LARGEST = 2 << 30  # bytes of memory that one project may take
MARK = 'was_here'  # the file that a class name would make if it ran as code
NAMES = (
    'a b', 'a  b', '[/x]', '[red]', '{{$HOME:x}}', '{{fileDirname}}', '$x^2$', "it's", 'ü', '图像',
    '-dash', '#1', '100%d', 'a.b', 'x,y', '"q"', '__', 'é' * 60, '`id`', '$(id)', '<b>', 'a|b',
)  # fmt: skip
CLASS_NAMES = (
    'road', 'a-b', '图', '[/x]', '$x$', '<b>', '{{$HOME:x}}', "it's", '"', '\\', '%s',
    '{{$X:\'+str(__import__("os").mkdir("' + MARK + '"))+\'}}',
)  # fmt: skip
DEPTHS = (
    'rgb', 'rgb', 'rgb', 'jpg', 'jpg', 'grey', 'rgba', 'palette', 'grey16', 'bands2', 'bands4',
    'float', 'nan', 'mixed',
)  # fmt: skip
MASKS = (
    'labels', 'labels', 'labels', 'binary', 'from_one', 'three_values', 'colours', 'palette',
    'soft', 'wide', 'float', 'instances', 'one_class', 'empty',
)  # fmt: skip


class Project:
    """Images and masks below a folder, and how ``pspnet init`` is called on them."""

    def __init__(self, root: Path, number: int):
        self.root, self.chance = root, Random(number)
        self.numbers = np.random.default_rng(number)
        choose = self.chance.choice
        self.depth, self.mask = choose(DEPTHS), choose(MASKS)
        self.classes = choose((2, 2, 3, 5))
        self.layout = choose(('flat', 'flat', 'folders', 'affixes', 'one_folder'))
        self.turn = choose((1, 1, 1, 3, 6)) if self.depth == 'jpg' else 1
        self.mask_is_turned_too = self.chance.random() < 0.5
        self.is_odd = self.chance.random() < 0.5
        self.out = choose(('mine', 'mine', 'mine', '.', 'masks', 'out [x]'))
        self.export = ['export', *(['--size', '64', '96'] if number % 2 else [])]
        self.images: list[Path] = []

    def __str__(self) -> str:
        kinds = f'{self.depth} images, {self.mask} masks, {self.layout}, orientation {self.turn}'
        return f'{kinds}, {"odd" if self.is_odd else "plain"} names, --out {self.out!r}'

    def make(self) -> list[str]:
        """Write the files; the arguments of ``pspnet init``."""
        for number in range(self.chance.randint(6, 12)):
            odd = self.chance.choice(NAMES) if self.is_odd else ''
            self._make_pair(f'{odd}{number}', number)
        masks = 'images' if self.layout == 'one_folder' else 'masks'
        arguments = ['init', 'images', masks, '--out', self.out, '--iterations', '10']
        if self.mask == 'colours' or self.chance.random() < 0.3:
            names = self.chance.sample(CLASS_NAMES, self.classes)
            if not self.is_odd:
                names = [f'class{index}' for index in range(self.classes)]
            values = [
                ' '.join(map(str, self._colour(index))) if self.mask == 'colours' else str(index)
                for index in range(self.classes)
            ]
            lines = (f'{name} {value}' for name, value in zip(names, values))
            Path(self.root, 'classes.txt').write_text('\n'.join(lines), encoding='utf-8')
            arguments += ['--classes', 'classes.txt']
        return [*arguments, '--backbone', 'resnet18']

    def _make_pair(self, name: str, number: int) -> None:
        height, width = (int(self.numbers.integers(64, 140)) for _ in range(2))
        labels = np.zeros((height, width), np.uint8)
        for index in range(1, self.classes):
            y, x = (int(self.numbers.integers(0, side - 24)) for side in (height, width))
            labels[y : y + 24, x : x + 24] = index
        noise = self.numbers.integers(0, 60, (height, width, 4))
        pixels = (labels[..., None] * 40 + noise).astype(np.uint8)
        folder = f'part{number % 2}' if self.layout == 'folders' else ''
        stem = f'{name}_rgb' if self.layout == 'affixes' else name
        self.images.append(self._write_image(Path('images', folder, stem), pixels, number))
        stem = f'{name}_mask' if self.layout in ('affixes', 'one_folder') else name
        parent = 'images' if self.layout == 'one_folder' else 'masks'
        if self.turn > 1 and not self.mask_is_turned_too:
            labels = self._turned(labels)
        self._write_mask(Path(parent, folder, stem), labels)

    def _turned(self, array: np.ndarray) -> np.ndarray:
        """As a reader shows what lies so in a file with the orientation ``turn``."""
        return np.rot90(array, {1: 0, 3: 2, 6: 3}[self.turn]).copy()

    def _path(self, path: Path, suffix: str) -> str:
        whole = self.root / path.with_name(path.name + suffix)
        whole.parent.mkdir(parents=True, exist_ok=True)
        return str(whole)

    def _write_image(self, path: Path, pixels: np.ndarray, number: int) -> Path:
        depth = self.depth
        if depth == 'mixed':
            depth = 'grey' if number % 3 == 0 else 'rgb'
        if depth in ('bands2', 'bands4', 'float', 'nan'):
            bands = pixels[..., : 2 if depth == 'bands2' else 4].transpose(2, 0, 1)
            bands = bands.astype(np.uint16) * 17 if 'bands' in depth else bands / np.float32(2550)
            if depth == 'nan':
                bands[:, 3:7, 5:9] = np.nan
            file, shape = self._path(path, '.tif'), bands.shape[1:]
            size = {'height': shape[0], 'width': shape[1], 'count': len(bands)}
            with rasterio.open(file, 'w', driver='GTiff', dtype=bands.dtype, **size) as raster:
                raster.write(bands)
            return Path(file)
        if depth == 'grey16':
            file = self._path(path, '.png')
            Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(file)
            return Path(file)
        mode = {'grey': 'L', 'rgba': 'RGBA', 'palette': 'P'}.get(depth, 'RGB')
        image = Image.fromarray(pixels, 'RGBA').convert(mode)
        exif = Image.Exif()
        exif[0x0112] = self.turn
        file = self._path(path, '.jpg' if depth == 'jpg' else '.png')
        image.save(file, exif=exif)
        return Path(file)

    def _colour(self, index: int) -> tuple[int, int, int]:
        return (index * 50 % 256, (255 - index * 40) % 256, index * 90 % 256)

    def _write_mask(self, path: Path, labels: np.ndarray) -> None:
        kind, suffix = self.mask, '.png'
        if kind == 'colours':
            table = np.array([self._colour(index) for index in range(self.classes)], np.uint8)
            image = Image.fromarray(table[labels])
        elif kind == 'palette':
            image = Image.fromarray(labels)
            image.putpalette(sum((self._colour(index) for index in range(256)), ())[:768])
        elif kind in ('wide', 'float'):
            values = labels.astype(np.uint16) + (256 if kind == 'wide' else 0)
            if kind == 'float':
                suffix, image = '.tif', Image.fromarray(labels.astype(np.float32))
            else:
                image = Image.fromarray(values)
        else:
            values = {
                'labels': labels,
                'binary': (labels > 0) * 255,
                'from_one': labels + 1,
                'three_values': np.minimum(labels, 2) * 127 + (labels > 1),
                'soft': cv2.GaussianBlur((labels > 0).astype(np.uint8) * 255, (7, 7), 0),
                'instances': self.numbers.integers(0, 200, labels.shape),
                'one_class': np.zeros_like(labels),
                'empty': np.full_like(labels, 255),
            }[kind]
            image = Image.fromarray(values.astype(np.uint8))
        image.save(self._path(path, suffix))


def upright(file: Path) -> np.ndarray:
    """The pixels as MMSegmentation's API takes them: blue, green, red, or the bands."""
    if file.suffix == '.tif':
        with rasterio.open(file) as raster:
            return raster.read().transpose(1, 2, 0)
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith('I'):
        return np.array(image, np.uint16)[..., None]
    return np.array(image.convert('RGB'))[..., ::-1]


def digests(root: Path) -> dict[str, str]:
    files = (p for folder in ('images', 'masks') for p in (root / folder).rglob('*'))
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}


# --- one project ----------------------------------------------------------------------------------


class EndedOtherwiseError(Exception):
    """What a project must not end with."""


def run(project: Project) -> str:
    """``'right'`` or where the project was refused; an error for whatever else."""
    os.chdir(project.root)
    init = project.make()
    before = digests(project.root)
    try:
        return _run(project, init)
    finally:
        after = digests(project.root)
        if any(after.get(name) != digest for name, digest in before.items()):
            raise EndedOtherwiseError('changed its input')
        if list(project.root.rglob(MARK)):
            raise EndedOtherwiseError('ran code of a class name')


def _run(project: Project, init: list[str]) -> str:
    if refused := step(*init):
        return refused
    (config,) = Path(project.out).glob('*.py')
    text = config.read_text(encoding='utf-8')
    text = re.sub(r'(?m)^pretrained = .*', 'pretrained = None', text)  # no download
    text = re.sub(r'num_workers=\d+', 'num_workers=0', text)
    text = text.replace('persistent_workers=True', 'persistent_workers=False')
    config.write_text(text, encoding='utf-8')
    if refused := step('check', str(config)):
        return refused
    if refused := step('train', str(config), '--work-dir', 'run'):
        raise EndedOtherwiseError(f'check passed, train did not: {refused}')
    checkpoint = next(Path('run').glob('iter_*.pth'))
    folder = 'images'
    if project.layout == 'one_folder':  # the masks lie beside the images
        folder = str(project.images[0].relative_to(project.root))
    if refused := step('predict', str(config), str(checkpoint), folder, '--out', 'predicted'):
        raise EndedOtherwiseError(f'predict did not: {refused}')
    compare(project, config, checkpoint)
    if refused := step(*project.export, str(config), str(checkpoint), '--out', 'network.onnx'):
        raise EndedOtherwiseError(f'export did not: {refused}')
    return 'right'


def step(*words: str) -> str:
    """Run a command in this process; one line of refusal, or nothing."""
    with open('said.txt', 'w+', encoding='utf-8') as said, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(said))
        stack.enter_context(contextlib.redirect_stdout(open(os.devnull, 'w')))  # noqa: SIM115
        try:
            code = pspnet(list(words))
        except SystemExit as end:
            code = end.code
        said.seek(0)
        text = said.read()
    if not code:
        return ''
    errors = [line for line in text.splitlines() if line.startswith('error:')]
    if not errors or 'Traceback' in text:
        raise EndedOtherwiseError(f'{words[0]} ended with {code!r} and said {text[-300:]!r}')
    return f'refused by {words[0]}: {errors[0][:300]}'


def compare(project: Project, config: Path, checkpoint: Path) -> None:
    """The predicted label maps beside those of MMSegmentation's own API."""
    from mmseg.apis import inference_model, init_model

    with contextlib.redirect_stdout(open(os.devnull, 'w')):
        model = init_model(Config.fromfile(config), str(checkpoint), device='cpu')
    written = {path.stem: path for path in Path('predicted', 'labels').rglob('*.png')}
    for file in project.images[: 1 if project.layout == 'one_folder' else None]:
        pixels = upright(file)
        valid = np.isfinite(pixels).all(2)
        found = np.array(Image.open(written[file.stem]))
        if found.shape != valid.shape:
            raise EndedOtherwiseError(f'{file.name}: labels of another size')
        if not (found[~valid] == 255).all():
            raise EndedOtherwiseError(f'{file.name}: labels where there are no numbers')
        if valid.all():
            labels = inference_model(model, pixels).pred_sem_seg.data[0].numpy()
            if (labels != found).mean() > 0.002:
                raise EndedOtherwiseError(f'{file.name}: {(labels != found).mean():.1%} differ')


def outcome(number: int) -> tuple[str, str]:
    """Make and run a project in a process of its own: what it is, and how it ended."""
    with tempfile.TemporaryDirectory() as temporary:
        project, said = Project(Path(temporary, 'p'), number), Path(temporary, 'outcome')
        project.root.mkdir()
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            try:
                said.write_text(run(project))
            except EndedOtherwiseError as error:
                said.write_text(f'WRONG: {error}')
            except BaseException:
                said.write_text(f'WRONG: {traceback.format_exc()}')
            os._exit(0)
        _, status, usage = os.wait4(child, 0)
        end = said.read_text() if said.exists() else f'WRONG: ended with status {status}'
        if usage.ru_maxrss * 1024 > LARGEST:
            end = f'WRONG: {usage.ru_maxrss >> 10} MB; {end}'
        return str(project), end


def main(count: int, first: int = 0) -> None:
    print(f'pspnet_plugin {pspnet_plugin.__version__}')
    os.environ.update(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    ends: collections.Counter[str] = collections.Counter()
    for number in range(first, first + count):
        kind, end = outcome(number)
        ends[end.partition(':')[0]] += 1
        print(f'{number}: {kind}\n    {end}', flush=True)
    print(dict(ends))


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
