"""The page of ``pspnet report``: in a browser, and what stands in its file."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.reports.evaluation import Doubt, Evaluation, ImageResult
from pspnet_plugin.app.reports.metrics import (
    areas_of,
    boundary_areas,
    confidence_bins,
    count_pairs,
    ious_of,
)
from pspnet_plugin.app.reports.page import (
    Origin,
    Pictures,
    page_text,
    reports_of_loads,
    write_page,
)
from pspnet_plugin.app.reports.pictures import encoded_image, encoded_map, room_for
from pspnet_plugin.errors import PspnetPluginError
from tests.helpers.browser import browser, needs_browser
from tests.helpers.folders import image_of, mask_of

HOSTILE = '</script><script>document.title="changed"</script><img src=x.png>'
CLASSES = ['ground', HOSTILE, '$\\broken{']
PALETTE = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
ORIGIN = Origin('How good?', HOSTILE, f'pspnet report {HOSTILE}', 'torch 2', f'a = "{HOSTILE}"')


def evaluation_of(name, labels, predictions, paths, doubts):
    images, total, bins = [], 0, 0
    for number, (label, predicted, path) in enumerate(zip(labels, predictions, paths)):
        pairs = count_pairs(label, predicted, 3)
        boundary = boundary_areas(label, predicted, 3)
        images.append(ImageResult(path, areas_of(pairs), boundary, doubts.get(number, [])))
        sure = np.full(label.shape, 0.8, np.float32)
        total, bins = total + pairs, bins + confidence_bins(sure, label, predicted, 3)
    return Evaluation(name, CLASSES, PALETTE, images, total, bins)


@pytest.fixture(scope='module')
def made():
    """Two checkpoints on 30 images; the first is worse from image to image, the second better."""
    labels = [mask_of(number, 3 if number % 2 else 2) for number in range(30)]
    labels[4][:8] = 255
    paths = [f'/data/images/{number:02}.png' for number in range(29)] + [f'/data/images/{HOSTILE}']
    predictions = []
    for count in (lambda number: number, lambda number: 29 - number):
        predicted = [label.copy() % 255 for label in labels]
        for number, one in enumerate(predicted):
            one[: count(number)] = (one[: count(number)] + 1) % 3
        predictions.append(predicted)
    doubts = {7: [Doubt((10, 5, 20, 12), 0, 2, 0.97, 0.1)]}
    evaluations = [
        evaluation_of(f'{name}.pth', labels, predicted, paths, doubts)
        for name, predicted in zip('ab', predictions)
    ]
    room = room_for(30, 3)
    pictures = [
        Pictures(
            labels[n].shape[::-1],
            encoded_image(image_of(labels[n], n), room[0]),
            *(encoded_map(labels[n], 3, room[1]),),
            [encoded_map(predicted[n], 3, room[1]) for predicted in predictions],
        )
        for n in range(30)
    ]
    return evaluations, pictures, labels


@pytest.fixture(scope='module')
def page(made, tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'report.html'
    write_page(path, page_text(made[0], made[1], None, [], ORIGIN))
    return path


@pytest.fixture(scope='module')
def window(page):
    with browser() as opened:
        opened.open(page)
        yield opened


CLASS_IOUS = """return [...document.querySelectorAll('.card header span:last-child')]
.map(s => s.textContent.split(', ')[1].split(' ')).map(w => [w.at(-3), w.at(-1)].map(parseFloat))"""
NAMES = "return [...document.querySelectorAll('.card header span:first-child')].map(s => s.title)"


def choose(window, id, value):
    window.run(
        f"const c = document.getElementById('{id}'); c.value = {value!r}"
        "; c.dispatchEvent(new Event('input'))"
    )


@needs_browser
def test_names_are_text_and_nothing_is_fetched(window):
    assert window.run('return document.title') == 'How good?'
    assert window.run("return document.querySelectorAll('script').length") == 2
    told = window.run('return document.body.innerText')
    assert told.count(HOSTILE) >= 4
    fetched = 'return performance.getEntriesByType("resource").map(e => e.name)'
    assert [name for name in window.run(fetched) if not name.startswith('data:')] == []


@needs_browser
def test_images_are_sorted_worst_first_and_by_what_is_chosen(window, made):
    first, second = made[0]
    names = [image.path.removeprefix('/data/images/') for image in first.images]

    def by(value):
        return sorted(range(30), key=lambda n: (value(n), n))

    choose(window, 'order', 'worst IoU first')
    assert window.run(NAMES)[:24] == [names[n] for n in by(lambda n: first.images[n].iou)][:24]
    choose(window, 'order', 'fewest right pixels first')
    expected = by(lambda n: round(first.images[n].accuracy, 4))
    assert window.run(NAMES)[:24] == [names[n] for n in expected][:24]
    choose(window, 'order', '2 worse than 1 first')
    changes = [b.iou - a.iou for a, b in zip(first.images, second.images)]
    assert window.run(NAMES)[0] == names[int(np.argmin(changes))]
    choose(window, 'order', 'worst IoU first')


@needs_browser
def test_images_are_filtered_by_class_and_name(window, made):
    first, second = made[0]
    has = [
        a.areas[1:, 2].any() or b.areas[1:, 2].any() for a, b in zip(first.images, second.images)
    ]
    choose(window, 'class', '2')
    assert window.run("return document.getElementById('count').textContent").startswith(
        f'{sum(has)} of 30'
    )
    # Images to which only the second checkpoint gives the class come last.
    ious, changes = [], []
    for a, b, there in zip(first.images, second.images, has):
        one, other = (ious_of(image.areas)[2] for image in (a, b))
        ious += [one] if there else []
        changes += [other - one] if there else []
    for order, values, sign in (
        ('worst IoU first', ious, 1),
        ('best IoU first', ious, -1),
        ('2 worse than 1 first', changes, 1),
        ('2 better than 1 first', changes, -1),
    ):
        choose(window, 'order', order)
        told = np.array(window.run(CLASS_IOUS))
        told = told[:, 0] if values is ious else told[:, 1] - told[:, 0]
        expected = sorted(values, key=lambda value: (np.isnan(value), sign * value))
        assert np.isnan(expected[-1])
        np.testing.assert_allclose(told, 100 * np.array(expected[: len(told)]), atol=0.2)
    choose(window, 'order', 'worst IoU first')
    choose(window, 'class', '')
    window.type('#search', '07.')
    assert window.run(NAMES) == ['07.png']
    choose(window, 'search', '')
    assert len(window.run(NAMES)) >= 24


COLOURS = """
const canvas = document.querySelectorAll('#large-views canvas')[{}];
return [...canvas.getContext('2d').getImageData({}, {}, 1, 1).data].slice(0, 3)"""


@needs_browser
def test_a_click_enlarges_an_image_with_label_predictions_and_differences(window, made):
    labels = made[2]
    choose(window, 'order', 'name')
    window.click('.card:nth-child(5)')
    assert window.run("return document.getElementById('large').open")
    choose(window, 'opacity', '1')
    painted = 'document.querySelectorAll("#large-views canvas")[5].getContext("2d")'
    window.wait(f'{painted}.getImageData(1, 30, 1, 1).data[3] > 0')
    assert window.run("return document.getElementById('large-name').textContent") == '04.png'
    below = PALETTE[labels[4][30, 1]]
    assert window.run(COLOURS.format(1, 1, 30)) == below  # the label
    assert window.run(COLOURS.format(2, 1, 30)) == below  # right in the first checkpoint
    assert window.run(COLOURS.format(3, 1, 30)) == [255, 255, 255]
    wrong = PALETTE[(labels[4][20, 1] + 1) % 3]
    assert window.run(COLOURS.format(4, 1, 20)) == wrong  # 25 rows are wrong in the second
    assert window.run(COLOURS.format(5, 1, 20)) == [230, 30, 30]
    window.click('#after')
    assert window.run("return document.getElementById('large-name').textContent") == '05.png'
    window.click('#close')
    assert not window.run("return document.getElementById('large').open")


@needs_browser
def test_a_possible_label_error_is_framed_in_its_image(window):
    window.click('#doubt-rows tr')
    assert window.run("return document.getElementById('large-name').textContent") == '07.png'
    framed = (
        '[...document.querySelectorAll("#large-views canvas")[0].getContext("2d")'
        '.getImageData(0, 0, 56, 40).data].some((v, n, all) =>'
        ' n % 4 === 0 && v > 200 && all[n + 1] < 90 && all[n + 2] > 200)'
    )
    window.wait(framed)
    window.click('#close')


@needs_browser
def test_a_click_on_a_heading_sorts_the_table(window):
    column = (
        "return [...document.querySelectorAll('#classes tbody')[0].rows]"
        '.map(row => parseFloat(row.cells[1].textContent))'
    )
    window.click('#classes th:nth-child(2)')
    descending = window.run(column)
    window.click('#classes th:nth-child(2)')
    assert descending == sorted(descending, reverse=True)
    assert window.run(column) == descending[::-1]


@pytest.mark.parametrize(
    ('out', 'told'), [('.', ' is a folder: name the file'), ('file/x.html', 'file: File exists')]
)
def test_a_page_that_cannot_be_written_is_told_before_anything_is_predicted(
    tmp_path, capsys, out, told
):
    (tmp_path / 'file').write_text('')
    words = ['report', 'psp_r18_camvid', 'no.pth', '--out', str(tmp_path / out)]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count('\n') == 1


def test_pictures_keep_to_their_room_and_label_maps_their_values():
    rng = np.random.default_rng(0)
    image, label = (rng.integers(0, 256, size).astype(np.uint8) for size in ((600, 800, 3),) * 2)
    room, room_of_map = room_for(2000, 3)
    sizes = [
        len(encoded_image(image, room)),
        *([len(encoded_map(label[..., 0], 200, room_of_map))] * 3),
    ]
    assert 2000 * sum(sizes) < 48_000_000  # noise, which is what compresses worst
    label[:40, :40] = 255
    with Image.open(io.BytesIO(base64.b64decode(encoded_map(label[..., 0], 201, 10**7)))) as file:
        red, green, _ = file.split()
    values = np.asarray(red).astype(int) + 256 * np.asarray(green).astype(int)
    assert (values == np.where(label[..., 0] < 201, label[..., 0], 65535)).all()


EMPTY = """[...document.querySelectorAll('#cards canvas')].filter(canvas =>
    !canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean))"""
KEYS = "dispatchEvent(new KeyboardEvent('keydown', {key: 'p', ctrlKey: true}))"


@needs_browser
@pytest.mark.parametrize('ask', ["document.getElementById('print').click()", KEYS])
def test_all_pictures_are_there_before_the_page_is_printed(window, page, ask):
    window.open(page)
    window.wait("document.querySelectorAll('.card').length")
    assert window.run(f'return {EMPTY}.length')
    window.run(f'window.print = () => window.printed = {EMPTY}.length; {ask}')
    window.wait("'printed' in window")
    assert window.run('return window.printed') == 0
    assert window.run("return document.querySelectorAll('.card').length") == 30


@needs_browser
def test_a_page_of_2000_images_is_small_and_makes_its_cards_when_they_are_looked_at(
    made, tmp_path, window, page
):
    evaluations, pictures, _ = made
    room, room_of_map = room_for(2000, 2)
    many = []
    for found in evaluations[:1]:
        images = [found.images[n % 30]._replace(path=f'/d/{n}.png') for n in range(2000)]
        many.append(found._replace(images=images))

    def filled(picture, room):  # bytes behind the end of a picture are not read
        content = base64.b64decode(picture)
        return base64.b64encode(content + bytes(room - len(content))).decode()

    full = [
        Pictures(
            one.size,
            filled(one.image, room),
            filled(one.label, room_of_map),
            [filled(one.predictions[0], room_of_map)],
        )
        for one in pictures
    ]
    path = tmp_path / 'many.html'
    write_page(path, page_text(many, [full[n % 30] for n in range(2000)], None, [], ORIGIN))
    assert 30e6 < path.stat().st_size < 50e6
    window.open(path)
    window.wait("document.getElementById('count').textContent === '2000 of 2000 images'")
    assert len(window.run(NAMES)) < 200
    window.run("document.getElementById('more').scrollIntoView()")
    window.wait("document.querySelectorAll('.card').length > 24")


@pytest.mark.parametrize('text', [b'{"module": "back', b'\xff'])
def test_a_damaged_report_of_weights_is_named(tmp_path, text):
    file = tmp_path / '2026' / 'pretrained_backbone.json'
    file.parent.mkdir()
    file.write_bytes(text)
    with pytest.raises(PspnetPluginError, match='pretrained_backbone.json is damaged .* remove it'):
        reports_of_loads(tmp_path)
