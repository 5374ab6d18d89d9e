"""What ``init`` is given -> pairs of images and label maps, their classes and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from ....utils.text import shortened
from ...errors import DataError, refuse
from ...images.sources import files_at
from ..classes import BACKGROUND_NAMES, save_labels
from ..division import sides_of_lists
from ..masks import Mask, Numbers, Value, count_values
from ..pairs import Pair, find_masks, pair_files, path_stem
from .class_tables import IGNORED, TABLES, Table, find_table, read_table
from .coco import read_coco
from .cvat import cvat_files, read_cvat
from .draw import Oddities, draw
from .labelme import read_labelme
from .shapes import AnnotatedImage, AnnotationError, Annotations, ImageFiles, load_json, size_of
from .yolo import read_yolo, yolo_files

IGNORED_NAMES = ('__ignore__',)  # labelme's
SHOWN = 5  # kinds of overlaps that are named


class Format(NamedTuple):
    """What one tool writes."""

    name: str  # as a person says it
    # The files of this format at a path, a file or a folder; none where it is another.
    files: Callable[[Path, ImageFiles], list[Path]]
    read: Callable[[Path, Sequence[Path], ImageFiles], Annotations]
    order: str = 'it comes later in the file'  # why a shape lies on top of another


def json_files_with(where: Path, images: ImageFiles, keys: Sequence[str]) -> list[Path]:
    """The JSON files at a path, a file or a folder, that have all these keys somewhere.

    Where there are some, files that are cut or no JSON are listed too: they may have been such.
    """
    files = files_at(where, '.json')
    found = {file for file in files if has_keys(file, keys)}
    return [file for file in files if file in found or is_broken(file)] if found else []


def has_keys(file: Path, keys: Sequence[str]) -> bool:
    content = file.read_bytes()
    return all(f'"{key}"'.encode() in content for key in keys)


def is_broken(file: Path) -> bool:
    """Whether a file is cut or no JSON."""
    try:
        load_json(file)
    except AnnotationError:
        return True
    return False


# Keys by which their files are told from other JSON.
OF_COCO, OF_LABELME = ('images', 'annotations', 'categories'), ('shapes', 'imagePath')
FORMATS = {
    'coco': Format('COCO JSON', partial(json_files_with, keys=OF_COCO), read_coco),
    'labelme': Format('labelme JSON', partial(json_files_with, keys=OF_LABELME), read_labelme),
    'cvat': Format(
        'CVAT for images (XML)',
        cvat_files,
        read_cvat,
        'its z_order is higher, or it comes later in the file',
    ),
    'yolo': Format('YOLO segmentation', yolo_files, read_yolo),
}


class Choices(NamedTuple):
    """What a user says about annotations."""

    kind: str | None = None  # a name of FORMATS or 'masks', where two would do
    unannotated: str | None = None  # 'background' or 'skip'
    smaller_on_top: bool = False
    skip_broken: bool = False
    table: Path | None = None  # of the classes, see read_table


class Source(NamedTuple):
    """Images, a mask for each, and what is known of both."""

    images: Path  # folder of the images
    masks: Path  # folder of the masks
    pairs: list[Pair]
    table: Table | None  # the classes, where they are stated
    sides: dict[str, str]  # 'train', 'val' or 'test' by the names of pairs, where files say so
    # What is known of the masks where they are label maps that were drawn into a temporary folder.
    drawn: dict[Path, Mask]


def find_source(images: Path, masks: Path, drafts: Path, choices: Choices) -> Source:
    """Look at what is there: masks, or annotations, which become label maps in ``drafts``.

    What a person should know of them is printed.

    Raises:
        DataError: there are neither, or two kinds, or broken ones, with a line for each.
    """
    files = ImageFiles(images)
    kinds = {kind: there for kind in FORMATS if (there := FORMATS[kind].files(masks, files))}
    folders = find_masks(images, masks)
    kind = choices.kind or only_kind([*kinds, *(['masks'] if folders else [])], masks)
    if kind == 'masks':
        if folders is None:
            raise DataError(f'{masks}: no masks there')
        return masks_source(*folders, choices.table)
    form = FORMATS[kind]
    if kind not in kinds:
        raise DataError(f'{masks}: no {form.name} there')
    found = form.read(masks, kinds[kind], files)
    if not choices.skip_broken:
        refuse(found.problems)
    print(f'annotations: {form.name} ({masks})')
    taken = with_unannotated(found, files, choices.unannotated)
    drawn = Source(images, drafts, [], None, {}, {})
    labels = found.labels if choices.table is None else labels_of_table(found, choices.table)
    drawn, report = draw_all(drawn, taken, labels, form, choices)
    unannotated = without_shapes_lines(found, files, choices.unannotated)
    if files.elsewhere:
        print(f'in other folders than stated: {shortened(files.elsewhere)}')
    for line in (*left_out_lines(found), *unannotated, *report):
        print(line)
    return drawn


def masks_source(images: Path, masks: Path, table: Path | None) -> Source:
    """Masks as they are, with a table of the tool that made them, where none is named."""
    stated = None
    if table is None:
        table = find_table((masks, masks.parent, images, images.parent))
        if table is not None:
            print(f'masks: {masks}, with the classes in {table} ({TABLES[table.name]})')
    if table is not None:
        stated = read_table(table)
    pairs = pair_files(images, masks)
    unlike = next((pair for pair in pairs if pair.image.stem != pair.mask.stem), None)
    if unlike:  # numbers alone may be equal by chance
        print(f'names that are not equal were paired, such as {unlike.image} and {unlike.mask}')
    return Source(images, masks, pairs, stated, sides_of_lists(images, masks, pairs), {})


def only_kind(kinds: list[str], where: Path) -> str:
    """The kind that is there.

    Raises:
        DataError: there is none, or several.
    """
    if len(kinds) > 1:
        raise DataError(f'{where}: could be {" or ".join(kinds)}: choose with --annotations KIND')
    if not kinds:
        broken = filter(is_broken, files_at(where, '.json'))
        refuse([f'{file}: is cut or no JSON' for file in broken])
        names = ', '.join(form.name for form in FORMATS.values())
        raise DataError(
            f'{where}: holds neither masks nor annotations ({names}); name the folder or the file '
            'of them after the folder of images'
        )
    return kinds[0]


def labels_of_table(found: Annotations, table: Path) -> list[str]:
    """The labels in the order of a table, which has to have all that shapes have."""
    names = list(read_table(table).classes)
    used = {shape.label for image in found.images.values() for shape in image.shapes}
    unknown = sorted(used - {*names, *IGNORED_NAMES})
    refuse([f'{table}: has no line for the label {label}, which shapes have' for label in unknown])
    return [*names, *(label for label in used if label in IGNORED_NAMES)]


def with_unannotated(
    found: Annotations, files: ImageFiles, choice: str | None
) -> list[AnnotatedImage]:
    """The images that become pairs: those without shapes, or without any word, as it is chosen."""
    taken = [i for i in found.images.values() if i.shapes or choice != 'skip']
    if choice == 'background':
        unnamed = (path for path in files.paths.values() if path not in found.images)
        taken += [AnnotatedImage(path, size_of(path), []) for path in unnamed]
    return taken


def draw_all(
    source: Source, taken: list[AnnotatedImage], labels: list[str], form: Format, choices: Choices
) -> tuple[Source, list[str]]:
    """Write the label maps of all images; the source with them, and the lines of the report."""
    # Of several suffixes each is part of a name.
    are_several = len({image.path.suffix for image in taken}) > 1
    table = class_values(labels)
    odd: dict[Path, Oddities] = {}
    for image in track(taken, 'drawing the shapes', transient=True):
        name = path_stem(image.path, source.images) + image.path.suffix * are_several
        label_map, odd[image.path] = draw(image, table, choices.smaller_on_top)
        mask = source.masks / f'{name}.png'
        save_labels(label_map, mask)
        source.drawn[mask] = Mask(mask, count_values(Numbers(label_map, False)), image.size, mark=1)
        source.pairs.append(Pair(name, image.path, mask))
        if image.side:
            source.sides[name] = image.side
    present = {value for mask in source.drawn.values() for value in mask.values}
    if len(present - {(IGNORED,)}) < 2:
        raise DataError(f'{source.images}: no two classes, background among them, have a pixel')
    order = 'it is smaller' if choices.smaller_on_top else form.order
    named: dict[int, str] = {}
    for label, value in table.items():  # the first of several labels of the background is its name
        named.setdefault(value, label)
    classes: dict[str, Value] = {
        name: (value,) for value, name in named.items() if value != IGNORED
    }
    stated = Table(classes, [(IGNORED,)])
    return source._replace(table=stated), report_lines(odd, order)


def class_values(labels: list[str]) -> dict[str, int]:
    """What stands in label maps for each label: 0 for the background, then in their order."""
    ignored = [label for label in labels if label in IGNORED_NAMES]
    empty = [label for label in labels if label.lower() in BACKGROUND_NAMES] or ['background']
    others = [label for label in labels if label not in (*ignored, *empty)]
    if len(others) >= IGNORED:
        raise DataError(f'{len(others)} labels, but label maps have room for {IGNORED - 1}')
    values = {label: number for number, label in enumerate(others, 1)}
    return {**dict.fromkeys(empty, 0), **values, **dict.fromkeys(ignored, IGNORED)}


def report_lines(oddities: Mapping[Path, Oddities], order: str) -> list[str]:
    """What the shapes have that is odd.

    Args:
        order: why one shape lies on top of another, for the end of a sentence.
    """
    kinds = (
        ('outside', 'partly outside of the image, which is cut off'),
        ('thin', 'thinner than a pixel, so that the outline is drawn too'),
        ('hidden', 'wholly below others, so that the label map lacks it'),
    )
    lines = []
    for kind, told in kinds:
        found = {path: getattr(one, kind) for path, one in oddities.items() if getattr(one, kind)}
        if found:
            labels = Counter(label for names in found.values() for label in names)
            of = ', '.join(f'{count} {label}' for label, count in labels.most_common(SHOWN))
            lines.append(
                f'{told}: {counted(sum(labels.values()), "shape")} in '
                f'{counted(len(found), "image")} ({of}; first {next(iter(found))})'
            )
    return lines + overlap_lines(oddities, order)


def overlap_lines(oddities: Mapping[Path, Oddities], order: str) -> list[str]:
    """Which classes lie over which."""
    pixels: Counter = Counter()
    images: Counter = Counter()
    for one in oddities.values():
        pixels.update(one.overlaps)
        images.update(one.overlaps.keys())
    lines = [
        f'{above} lies over {below} on {counted(pixels[below, above], "pixel")} in '
        f'{counted(images[below, above], "image")}: {order}'
        for below, above in sorted(pixels, key=pixels.__getitem__, reverse=True)
    ]
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f'and {more} more pairs of classes lie over one another'] * (more > 0))


def without_shapes_lines(found: Annotations, images: ImageFiles, choice: str | None) -> list[str]:
    """What becomes of images without a shape, and of those that no annotation names."""
    empty = [str(image.path) for image in found.images.values() if not image.shapes]
    unnamed = [str(path) for path in images.paths.values() if path not in found.images]
    lines = []
    for paths, told, usual in (
        (empty, 'without a shape', 'background'),
        (unnamed, 'not named by any annotation', 'skip'),
    ):
        if paths:
            if (choice or usual) == 'background':
                becomes = 'background everywhere (--unannotated skip leaves them out)'
            else:
                becomes = 'left out (--unannotated background takes them as background)'
            lines.append(f'{told}: {counted(len(paths), "image")}, {becomes}: {shortened(paths)}')
    return lines


def counted(number: int, noun: str) -> str:
    """``1 shape``, ``2 shapes``."""
    return f'{number} {noun}{"" if number == 1 else "s"}'


def left_out_lines(found: Annotations) -> list[str]:
    """What is in no label map: lines and points, and what ``--skip-broken`` allows."""
    lines = []
    if found.without_area:
        count = counted(len(found.without_area), 'shape')
        lines.append(f'without an area: {count}, left out: {shortened(found.without_area)}')
    if found.problems:
        broken = shortened(found.problems, SHOWN)
        lines.append(f'broken and left out, so that their pixels are background: {broken}')
    return lines
