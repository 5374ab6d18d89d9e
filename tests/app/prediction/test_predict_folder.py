"""``pspnet predict``: from images and videos to a folder of results, whatever happens."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.apis import inference_model
from mmseg.apis import init_model as stock_init_model
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.models import init_model
from pspnet_plugin.app.prediction import predict
from pspnet_plugin.app.prediction.folder import predict_folder
from pspnet_plugin.app.prediction.results import write_table
from pspnet_plugin.errors import PredictionError
from tests.helpers.folders import contents_of
from tests.helpers.prediction import (
    broken_files,
    photo,
    random_checkpoint,
    share_equal,
    small_config,
    stock_config,
    unusual_files,
    write_photo,
)
from tests.helpers.processes import ROOT, run_two, start_copy, torchrun_variables
from tests.helpers.slurm import slurm, slurm_variables


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config file and a checkpoint of it."""
    folder = tmp_path_factory.mktemp('trained')
    cfg = small_config(ROOT / 'configs' / 'psp_r50_cityscapes.py')
    cfg.dump(folder / 'config.py')
    return str(folder / 'config.py'), random_checkpoint(cfg, folder / 'random.pth')


def write_video(path, frames=12, size=(48, 80), rate=10.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter.fourcc(*('mp4v' if path.suffix == '.mp4' else 'MJPG'))
    writer = cv2.VideoWriter(str(path), fourcc, rate, size[::-1])
    for number in range(frames):
        writer.write(np.roll(photo(*size), 3 * number, axis=1))
    writer.release()


def table(path):
    with open(path, newline='', encoding='utf-8', errors='surrogateescape') as file:
        return list(csv.reader(file))


def test_folder_is_predicted_with_its_tree(trained, tmp_path, capsys):
    images = tmp_path / 'images'
    for number, place in enumerate(['a.png', 'x/b.jpg', 'x/y/c d.png', 'x/图.png', 'x/b.png']):
        write_photo(images / place, 60 + number, 90, number)
    out = images / 'out'  # within the folder, and yet no input
    command = ['predict', *trained, str(images), '--out', str(out), '--device', 'cpu']
    for _ in range(2):  # the second time there is nothing left to do
        assert main([*command, '--probabilities', '--batch', '2']) == 0
        assert f'5 predicted: {out}' in capsys.readouterr().out
    names = ['a', 'x/b.jpg', 'x/b.png', 'x/y/c d', 'x/图']
    kinds = {'labels': 'png', 'overlays': 'jpg', 'probabilities': 'tif', 'sources': 'json'}
    expected = {f'{kind}/{name}.{end}' for kind, end in kinds.items() for name in names}
    assert set(contents_of(out)) == expected | {'shares.csv', 'prediction.json'}

    config, checkpoint = trained
    stock_cfg = stock_config(Config.fromfile(config))
    model = stock_init_model(stock_cfg, checkpoint, device='cpu')
    header, *rows = table(out / 'shares.csv')
    assert header == ['image', *model.dataset_meta['classes']]
    assert json.loads((out / 'prediction.json').read_text())['classes'] == header[1:]
    places = ['a.png', 'x/b.jpg', 'x/b.png', 'x/y/c d.png', 'x/图.png']
    assert [row[0] for row in rows] == [str(images / place) for place in places]
    for name, row in zip(names, rows):
        labels = np.asarray(Image.open(out / 'labels' / f'{name}.png'))
        stock = inference_model(model, row[0])
        assert share_equal(labels, stock.pred_sem_seg.data[0]) >= 0.9999
        shares = np.bincount(labels.ravel(), minlength=19) / labels.size
        assert np.allclose(np.array(row[1:], float), shares, atol=1e-6)
        pages = cv2.imreadmulti(str(out / 'probabilities' / f'{name}.tif'), flags=-1)[1]
        expected = stock.seg_logits.data.softmax(0).numpy()
        assert np.allclose(np.array(pages) / 65535, expected, atol=1e-4)
        overlay = Image.open(out / 'overlays' / f'{name}.jpg')
        assert overlay.height > labels.shape[0]  # the legend


@pytest.mark.parametrize('start', ['=', '+', '-', '@', '\t'])
def test_a_spreadsheet_computes_nothing_in_a_table(tmp_path, start):
    name = f'{start}HYPERLINK("x")'
    write_table(tmp_path / 'shares.csv', 'image', [name, 'a=b'], [(f'{name}.png', ['1', '0'])])
    header, row = table(tmp_path / 'shares.csv')
    assert header == ['image', f"'{name}", 'a=b']
    assert row == [f'./{name}.png', '1', '0']  # the same file


def test_bad_images_are_named_at_the_end_and_the_others_predicted(trained, tmp_path, capsys):
    images = tmp_path / 'images'
    images.mkdir()
    write_photo(images / os.fsdecode(b'\xff is no UTF-8.png'))
    good = unusual_files(images)
    bad = broken_files(images)
    (images / 'a\x1b[2J.png').touch()
    bad[str(images / r'a\x1b[2J.png')] = 'is empty'
    out = tmp_path / 'out'
    assert main(['predict', *trained, str(images), '--out', str(out), '--device', 'cpu']) == 1
    captured = capsys.readouterr()
    assert f'{len(good)} predicted' in captured.out
    told = captured.err.split(f'{len(bad)} could not be predicted:\n')[1].splitlines()
    assert len(told) == len(bad)
    for line in told:
        name, _, reason = line.strip().partition(': ')
        assert bad[name] in reason
    assert [row[0] for row in table(out / 'shares.csv')[1:]] == [str(path) for path in good]
    for path in good:
        labels = np.asarray(Image.open(out / 'labels' / f'{path.stem}.png'))
        assert np.array_equal(labels, next(predict(model_of(trained), path)).label_map)


def model_of(trained):
    return init_model(*trained, device='cpu')


def test_killed_command_goes_on_to_the_files_of_an_undisturbed_run(trained, tmp_path):
    images = tmp_path / 'images'
    for number in range(40):
        write_photo(images / f'{number % 3}' / f'{number:02}.png', 60 + number // 20, 90, number)
    write_video(images / 'film.mp4')
    undisturbed, killed = tmp_path / 'undisturbed', tmp_path / 'killed'
    options = ['--device', 'cpu', '--batch', '3']
    command = ['predict', *trained, str(images), *options, '--out']
    assert main([*command, str(undisturbed)]) == 0

    process = start_copy(main, [*command, str(killed)], output=tmp_path / 'printed.txt')
    while len(list(killed.glob('labels/*/*.png'))) < 5:
        assert process.is_alive(), (tmp_path / 'printed.txt').read_text()
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    expected, there = contents_of(undisturbed), contents_of(killed)
    assert 5 <= len([name for name in there if name.startswith('labels/')]) < 40
    for name, content in there.items():
        assert name.endswith('.part') or content == expected[name]

    times = {path: path.stat().st_mtime_ns for path in killed.glob('labels/*/*.png')}
    assert main([*command, str(killed)]) == 0
    assert contents_of(killed) == expected
    kept = [path for path, written in times.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= 3


def test_changed_image_is_predicted_again_and_another_model_is_refused(trained, tmp_path, capsys):
    image, out = write_photo(tmp_path / 'image.png'), tmp_path / 'out'
    command = ['predict', *trained, image, '--out', str(out), '--device', 'cpu']
    assert main(command) == 0
    first = contents_of(out)
    write_photo(Path(image), seed=5)
    later = time.time() + 60
    os.utime(image, (later, later))
    assert main(command) == 0
    assert contents_of(out)['labels/image.png'] != first['labels/image.png']
    capsys.readouterr()
    assert main([*command, '--opacity', '0.3']) == 1
    assert f'error: {out} holds predictions with another opacity' in capsys.readouterr().err


@pytest.mark.parametrize('variables', [torchrun_variables, slurm_variables])
def test_processes_divide_the_images_and_the_first_reports(
    trained, tmp_path, monkeypatch, variables
):
    monkeypatch.setenv('PATH', slurm(tmp_path, os.environ['PATH']))
    images, alone, together = (tmp_path / name for name in ('images', 'alone', 'together'))
    for number in range(5):
        write_photo(images / f'{number}.png', 60, 90, number)
    (images / '1 bad.png').write_bytes(b'nothing')
    (images / '2 bad.png').write_bytes(b'')
    command = ['predict', *trained, str(images), '--device', 'cpu', '--out']
    assert main([*command, str(alone)]) == 1

    def run(*options):
        words = [*command, str(together), *options]
        return run_two(main, words, folder=tmp_path, variables=variables)

    code, output = run()
    assert code == 1
    assert output.count(' predicted: ') == output.count('5 predicted: ') == 1
    assert output.count('1 bad.png: ') == output.count('2 bad.png: ') == 1
    assert contents_of(together) == contents_of(alone)
    code, output = run('--opacity', '0.3')
    assert code == 1
    assert 'holds predictions with another opacity' in output


def test_video_is_written_with_the_classes_over_each_frame(trained, tmp_path):
    write_video(tmp_path / 'films' / 'street.avi')
    out = tmp_path / 'out'
    command = ['predict', *trained, str(tmp_path / 'films'), '--device', 'cpu', '--out', str(out)]
    assert main(command) == 0
    assert set(contents_of(out)) == {
        'overlays/street.mp4', 'frames/street.csv', 'sources/street.json', 'shares.csv',
        'prediction.json'
    }  # fmt: skip
    capture = cv2.VideoCapture(str(tmp_path / 'films' / 'street.avi'))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    predictions = list(predict(model_of(trained), frames))
    header, *rows = table(out / 'frames' / 'street.csv')
    assert header[0] == 'frame'
    assert len(rows) == len(frames) == 12
    for row, prediction in zip(rows, predictions):
        shares = prediction.counts / prediction.counts.sum()
        assert np.allclose(np.array(row[1:], float), shares, atol=1e-6)
    mean = np.mean([np.array(row[1:], float) for row in rows], axis=0)
    (total,) = table(out / 'shares.csv')[1:]
    assert np.allclose(np.array(total[1:], float), mean, atol=1e-6)

    written = cv2.VideoCapture(str(out / 'overlays' / 'street.mp4'))
    assert written.get(cv2.CAP_PROP_FPS) == 10
    good, first = written.read()
    assert good
    picture = predictions[0].overlay()[..., ::-1].astype(int)
    difference = np.abs(first[: picture.shape[0], : picture.shape[1]].astype(int) - picture)
    assert difference.mean() < 12  # of 255: a codec with losses


def test_cut_video_is_named_and_leaves_nothing_behind(trained, tmp_path, capsys):
    films, out = tmp_path / 'films', tmp_path / 'out'
    for name in ('a.avi', 'b.mp4'):
        write_video(films / name, frames=40)
        content = (films / name).read_bytes()
        (films / f'cut{Path(name).suffix}').write_bytes(content[: len(content) // 3])
    (films / 'empty.mp4').write_bytes(b'')
    command = ['predict', *trained, str(films), '--device', 'cpu', '--out', str(out)]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert '3 could not be predicted' in told
    for name in ('cut.avi', 'cut.mp4', 'empty.mp4'):
        assert f'{name}: ' in told
    assert {path.name for path in (out / 'overlays').iterdir()} == {'a.mp4', 'b.mp4'}


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['nowhere', '--out', 'out'], 'There is no image, folder or match of nowhere.'),
        (['one', 'two', '--out', 'out'], 'would both be written as a'),
        (['empty', '--out', 'out'], 'empty has no images'),
        (['one', '--out', 'one/a.png'], 'cannot be written'),
        (['one', '--out', 'one'], 'one/a.png lies in one, which gets the results: name another'),
        (['two', 'one', '--out', '.'], 'two/a.png lies in ., which gets the results: name another'),
        (['one', '--out', '/proc/out'], '/proc/out cannot be written: No such file'),
        (['new.pth', 'one', '--out', 'out'], 'new.pth are 2 checkpoints, and one predicts: name'),
        (['old.pth', 'new.pth', 'one', '--out', 'out'], 'The newest is new.pth.'),
        (['one', '--out', 'out', '--tta', '--cfg-options', 'tta_pipeline=None'], 'tta_pipeline'),
    ],
)
def test_what_cannot_be_done_is_one_line(trained, tmp_path, monkeypatch, capsys, words, said):
    for folder in ('one', 'two'):
        write_photo(tmp_path / folder / 'a.png', 40, 60)
    (tmp_path / 'empty').mkdir()
    for number, name in enumerate(['old.pth', 'new.pth']):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (2e9 + number, 2e9 + number))
    monkeypatch.chdir(tmp_path)
    assert main(['predict', *trained, *words, '--device', 'cpu']) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: ')
    assert said in error


def test_interrupt_is_one_line_that_says_how_to_go_on(trained, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    image, out = write_photo(tmp_path / 'image.png'), tmp_path / 'out'
    command = ['predict', *trained, image, '--out', str(out), '--device', 'cpu']
    monkeypatch.setattr(Image.Image, 'putpalette', interrupted)
    assert main(command) == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == 'stopped. What is written is whole, and the same command goes on from there.'
    assert set(contents_of(out)) == {'prediction.json'}
    monkeypatch.undo()
    assert main(command) == 0


def test_full_disk_ends_it_and_keeps_what_is_whole(trained, tmp_path, monkeypatch):
    for number in range(3):
        write_photo(tmp_path / 'images' / f'{number}.png', 40, 60, number)
    model, images, out = model_of(trained), str(tmp_path / 'images'), tmp_path / 'out'
    replace, left = os.replace, [4]

    def full(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, 'No space left on device')
        replace(*paths)

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(PredictionError, match=r'1\.json cannot be written: No space left'):
        predict_folder(model, images, out)
    monkeypatch.undo()
    whole = contents_of(out)
    assert set(whole) == {'prediction.json', 'sources/0.json', 'overlays/0.jpg', 'labels/0.png'}
    predict_folder(model, images, out)
    predict_folder(model, images, tmp_path / 'again')
    assert contents_of(out) == contents_of(tmp_path / 'again')
