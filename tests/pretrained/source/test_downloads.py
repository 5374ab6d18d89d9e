"""Downloads from a server on the loopback that does everything wrong."""

from __future__ import annotations

import hashlib
import http.server
import io
import multiprocessing
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from pspnet_plugin.pretrained.source import connection
from pspnet_plugin.pretrained.source import download as downloads
from tests.helpers.attacks import Payload


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))


def file_of(content: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


WEIGHTS = file_of(network().state_dict())
OLD_WEIGHTS = file_of(network().state_dict(), zipped=False)
# Another network's: as long, and no checksum inside tells halves of the two apart.
OLD_OTHERS = file_of(network(seed=2).state_dict(), zipped=False)
HASH = hashlib.sha256(WEIGHTS).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Answers as ``answer`` says; remembers the requests."""

    answer: Callable
    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.requests: list[http.server.BaseHTTPRequestHandler] = []

    def address(self, name: str = 'weights.pth') -> str:
        return f'http://127.0.0.1:{self.server_port}/{name}'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self)
        self.server.answer(self)

    def log_message(self, *args):
        pass

    def head(self, status: int, **headers) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()

    def send(self, data: bytes, status: int = 200, **headers) -> None:
        self.head(status, **{'Content_Length': len(data), **headers})
        self.wfile.write(data)

    def send_from(self, data: bytes, limit: int | None = None, **headers) -> None:
        """Serve the range that is asked for, and break off after ``limit`` bytes."""
        asked = self.headers.get('Range')
        start = int(asked.removeprefix('bytes=').rstrip('-')) if asked else 0
        if start:
            headers['Content_Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
        self.head(206 if start else 200, Content_Length=len(data) - start, **headers)
        self.wfile.write(data[start:][:limit])
        if limit is not None:
            self.close_connection = True

    def reset(self) -> None:
        """Break the connection as a crash does, without a goodbye."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.connection.close()
        self.wfile = io.BytesIO()
        self.close_connection = True


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(downloads, 'PAUSE_SECONDS', 0)
    monkeypatch.setattr(connection, 'TIMEOUT_SECONDS', 5)
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


def loads(address: str, **settings) -> None:
    ours = network(seed=1)
    assert load_pretrained(ours, address, **settings).coverage == 1
    assert torch.equal(ours[1].weight, network()[1].weight)


def refused(server: Server, cache: Path, message: str, name: str = 'weights.pth', **settings):
    """One error with the address and the path for the file; nothing under the final name."""
    with pytest.raises(PretrainedWeightsError, match=message) as caught:
        load_pretrained(network(seed=1), server.address(name), **settings)
    assert server.address(name) in str(caught.value)
    assert str(cache / name) in str(caught.value)
    assert not (cache / name).exists()


# --- what works ---------------------------------------------------------------------------------


@pytest.mark.parametrize('data', [WEIGHTS, OLD_WEIGHTS])
def test_a_file_is_downloaded_once_and_kept_where_torch_hub_keeps_it(server, cache, data):
    server.answer = lambda request: request.send(data)
    loads(server.address())
    loads(server.address())
    assert len(server.requests) == 1
    assert (cache / 'weights.pth').read_bytes() == data
    assert not list(cache.glob('*.part*'))


def test_a_file_put_into_the_cache_by_hand_is_taken_without_a_connection(server, cache):
    cache.mkdir(parents=True)
    (cache / 'weights.pth').write_bytes(WEIGHTS)
    loads(server.address())
    assert not server.requests


def test_a_file_of_the_same_name_from_another_address_is_not_taken_for_this_one(server, cache):
    server.answer = lambda request: request.send(WEIGHTS)
    loads(server.address('one/weights.pth'))
    with pytest.raises(PretrainedWeightsError, match=r'came from .*/one/weights\.pth.*sha256='):
        load_pretrained(network(seed=1), server.address('two/weights.pth'))
    loads(server.address('two/weights.pth'), sha256=HASH)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    'name', ['weights.pth', f'weights-{HASH[:8]}.pth', f'weights-{HASH[:8].upper()}.pth']
)
def test_a_right_hash_passes(server, name):
    server.answer = lambda request: request.send(WEIGHTS)
    loads(server.address(name), sha256=HASH)
    loads(server.address(name), sha256=HASH[:16].upper())


def test_a_date_in_the_name_is_no_hash(server):
    server.answer = lambda request: request.send(WEIGHTS)
    loads(server.address('psp_r50-20200605.pth'))


def test_a_redirect_is_followed(server):
    def answer(request):
        if request.path == '/here.pth':
            request.head(302, Location='/there.pth', Content_Length=0)
        else:
            request.send(WEIGHTS)

    server.answer = answer
    loads(server.address('here.pth'))


def test_an_address_may_hold_spaces_and_letters_beyond_ascii(server, cache):
    server.answer = lambda request: request.send(WEIGHTS)
    loads(server.address('große gewichte.pth?of=ä b'))
    assert server.requests[0].path == '/gro%C3%9Fe%20gewichte.pth?of=%C3%A4%20b'
    assert (cache / 'große gewichte.pth').is_file()
    loads(server.address('100%25 sure%2B.pth'))
    assert server.requests[1].path == '/100%25%20sure%2B.pth'


def test_a_bar_shows_the_progress_and_the_size(server, monkeypatch, capsys):
    def note(bar, completed, total):
        shown.append((completed, total))
        show(bar, completed, total)

    shown, show = [], downloads._ProgressBar._show
    monkeypatch.setattr(downloads._ProgressBar, '_show', note)
    half, whole = len(WEIGHTS) // 2, len(WEIGHTS)
    server.answer = lambda request: request.send_from(
        WEIGHTS, half if len(server.requests) == 1 else None, ETag='"one"'
    )
    loads(server.address())
    come = [completed for completed, _ in shown]
    assert come == sorted(come)
    assert {0, half, whole} <= set(come)
    assert {total for _, total in shown} == {whole}
    printed = capsys.readouterr().out
    assert 'weights.pth' in printed
    assert f'{whole / 1000:.1f}/{whole / 1000:.1f} kB' in printed


def test_the_token_of_the_hub_goes_to_the_hub_and_not_where_it_redirects(server, monkeypatch):
    other = f'http://localhost:{server.server_port}/storage/weights.pth'

    def answer(request):
        if request.path.startswith('/storage'):
            request.send(WEIGHTS)
        else:
            request.head(302, Location=other, Content_Length=0)

    server.answer = answer
    monkeypatch.setenv('HF_ENDPOINT', server.address('').rstrip('/'))
    monkeypatch.setenv('HF_TOKEN', 'secret')
    loads('hf://org/repo/weights.pth')
    sent = [(request.path, request.headers['Authorization']) for request in server.requests]
    assert sent == [
        ('/org/repo/resolve/main/weights.pth', 'Bearer secret'),
        ('/storage/weights.pth', None),
    ]


@pytest.mark.parametrize('headers', [{}, {'ETag': '"one"'}, {'Last_Modified': 'yesterday'}])
def test_a_connection_that_breaks_half_way_is_resumed(server, cache, headers):
    def answer(request):
        first = len(server.requests) == 1
        request.send_from(WEIGHTS, len(WEIGHTS) // 2 if first else None, **headers)

    server.answer = answer
    loads(server.address(f'weights-{HASH[:8]}.pth'))
    assert server.requests[1].headers['Range'] == f'bytes={len(WEIGHTS) // 2}-'
    assert server.requests[1].headers['If-Range'] == (next(iter(headers.values()), None))
    assert len(server.requests) == 2


def test_the_next_run_goes_on_where_this_one_was_cut_off(server, cache):
    server.answer = lambda request: request.send_from(WEIGHTS, 1000, ETag='"one"')
    refused(server, cache, 'broke 5 times')
    came = server.requests[-1]
    server.requests.clear()
    server.answer = lambda request: request.send_from(WEIGHTS, ETag='"one"')
    loads(server.address())
    assert came.headers['Range'] == 'bytes=4000-'
    assert [request.headers['Range'] for request in server.requests] == ['bytes=5000-']


@pytest.mark.parametrize('how', ['closed', 'reset', 'silent'])
def test_a_connection_that_breaks_before_the_answer_is_resumed(server, monkeypatch, how):
    monkeypatch.setattr(connection, 'TIMEOUT_SECONDS', 0.5)
    over = threading.Event()

    def answer(request):
        if len(server.requests) != 2:
            first = len(server.requests) == 1
            request.send_from(WEIGHTS, 1000 if first else None, ETag='"one"')
        elif how == 'silent':
            over.wait(5)
        elif how == 'reset':
            request.reset()

    server.answer = answer
    loads(server.address())
    over.set()
    ranges = [request.headers['Range'] for request in server.requests]
    assert ranges == [None, 'bytes=1000-', 'bytes=1000-']


@pytest.mark.parametrize('how', ['reset', 'chunked'])
def test_what_came_before_the_connection_broke_is_kept(server, monkeypatch, how):
    def answer(request):
        if len(server.requests) > 1:
            request.send_from(WEIGHTS, ETag='"one"')
        elif how == 'reset':
            request.send_from(WEIGHTS, 1000, ETag='"one"')
            came.wait(5)
            request.reset()
        else:
            request.head(200, ETag='"one"', Transfer_Encoding='chunked')
            request.wfile.write(b'%x\r\n' % len(WEIGHTS) + WEIGHTS[:1000])
            request.close_connection = True

    def show_and_tell(bar, completed, total):
        show(bar, completed, total)
        if completed:
            came.set()

    came, show = threading.Event(), downloads._ProgressBar._show
    monkeypatch.setattr(downloads._ProgressBar, '_show', show_and_tell)
    server.answer = answer
    loads(server.address())
    assert server.requests[1].headers['Range'] == 'bytes=1000-'


@pytest.mark.parametrize('sends', ['the whole file', 'a new version'])
@pytest.mark.parametrize('kind', ['ETag', 'Last-Modified'])
@pytest.mark.parametrize('when', ['in one run', 'between two runs'])
def test_a_file_that_changed_on_the_server_is_not_glued_together(server, cache, sends, kind, when):
    def answer(request):
        old = len(server.requests) <= (1 if when == 'in one run' else downloads.TRIES)
        if old:
            request.send_from(OLD_OTHERS, 1000, **{kind: '"one"'})
        elif sends == 'the whole file':  # as a server does that knows If-Range
            request.send(OLD_WEIGHTS, **{kind: '"two"'})
        else:
            request.send_from(OLD_WEIGHTS, **{kind: '"two"'})

    server.answer = answer
    if when == 'between two runs':
        refused(server, cache, 'broke 5 times')
    loads(server.address())
    assert (cache / 'weights.pth').read_bytes() == OLD_WEIGHTS


def test_a_process_that_is_killed_leaves_no_old_beginning_under_a_new_version(
    server, cache, monkeypatch
):
    def killed(*args):
        raise KeyboardInterrupt

    server.answer = lambda request: request.send_from(OLD_OTHERS, 1000, ETag='"one"')
    refused(server, cache, 'broke 5 times')
    server.answer = lambda request: request.send(OLD_WEIGHTS, ETag='"two"')
    with monkeypatch.context() as patch:
        patch.setattr(connection, '_append', killed)
        with pytest.raises(KeyboardInterrupt):
            load_pretrained(network(), server.address())
    server.answer = lambda request: request.send_from(OLD_WEIGHTS, ETag='"two"')
    loads(server.address())


@pytest.mark.parametrize('when', ['in one run', 'between two runs'])
@pytest.mark.parametrize('headers', [{}, {'ETag': 'W/"weak"'}])
def test_without_a_version_and_a_hash_the_file_is_started_again(server, cache, when, headers):
    def answer(request):
        old = len(server.requests) <= (1 if when == 'in one run' else downloads.TRIES)
        request.send_from(OLD_OTHERS if old else OLD_WEIGHTS, 1000 if old else None, **headers)

    server.answer = answer
    if when == 'between two runs':
        refused(server, cache, 'broke 5 times')
    loads(server.address())
    assert not any(request.headers['Range'] for request in server.requests)


def test_the_beginning_of_a_file_is_not_continued_from_another_address(server, cache):
    server.answer = lambda request: request.send_from(OLD_OTHERS, 1000, Last_Modified='today')
    refused(server, cache, 'broke 5 times')
    server.requests.clear()
    server.answer = lambda request: request.send_from(OLD_WEIGHTS, Last_Modified='today')
    loads(server.address('elsewhere/weights.pth'))
    assert [request.headers['Range'] for request in server.requests] == [None]


def test_a_signed_address_is_resumed_when_it_is_signed_again(server, cache):
    server.answer = lambda request: request.send_from(WEIGHTS, 1000, ETag='"one"')
    with pytest.raises(PretrainedWeightsError, match='broke 5 times'):
        load_pretrained(network(), server.address('weights.pth?key=1'))
    server.requests.clear()
    server.answer = lambda request: request.send_from(WEIGHTS, ETag='"one"')
    loads(server.address('weights.pth?key=2'))
    assert [request.headers['Range'] for request in server.requests] == ['bytes=5000-']


def test_more_than_the_server_has_is_thrown_away(server, cache):
    def answer(request):
        if request.headers['Range']:
            request.send(b'', 416)
        else:
            request.send(WEIGHTS)

    cache.mkdir(parents=True)
    name = f'weights-{HASH[:8]}.pth'
    (cache / f'{name}.part').write_bytes(WEIGHTS + b'more')
    server.answer = answer
    loads(server.address(name))
    assert [request.headers['Range'] is None for request in server.requests] == [False, True]


def test_a_part_that_was_not_asked_for_is_thrown_away(server):
    def answer(request):
        if request.headers['Range']:
            where = f'bytes 0-{len(WEIGHTS) - 1}/{len(WEIGHTS)}'
            request.send(WEIGHTS, 206, Content_Range=where, ETag='"one"')
        else:
            first = len(server.requests) == 1
            request.send_from(WEIGHTS, 1000 if first else None, ETag='"one"')

    server.answer = answer
    loads(server.address())
    assert [request.headers['Range'] is None for request in server.requests] == [True, False, True]


def test_a_server_without_ranges_starts_the_file_again(server):
    def answer(request):
        data = WEIGHTS[:1000] if len(server.requests) == 1 else WEIGHTS
        request.head(200, Content_Length=len(WEIGHTS))
        request.wfile.write(data)
        request.close_connection = True

    server.answer = answer
    loads(server.address())


def test_a_server_that_is_busy_for_a_moment_is_asked_again(server):
    def answer(request):
        busy = len(server.requests) < 3
        request.send(b'', 503) if busy else request.send(WEIGHTS)

    server.answer = answer
    loads(server.address())


def _load_in_a_process(address: str, folder: str, barrier) -> None:
    torch.set_num_threads(1)  # the threads of the parent are not here
    os.environ['TORCH_HOME'] = folder
    barrier.wait()
    loads(address)


def test_of_several_processes_one_downloads(server, tmp_path):
    def answer(request):
        threading.Event().wait(0.3)
        request.send(WEIGHTS)

    server.answer = answer
    context = multiprocessing.get_context('fork')
    barrier = context.Barrier(3)
    arguments = (server.address(), str(tmp_path / 'torch'), barrier)
    processes = [context.Process(target=_load_in_a_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(server.requests) == 1


def test_of_two_addresses_at_once_with_one_file_name_one_is_refused(server):
    def answer(request):
        threading.Event().wait(0.3)
        request.send(WEIGHTS if 'one' in request.path else OLD_OTHERS)

    def load(folder: str) -> None:
        ours = network(seed=1)
        try:
            load_pretrained(ours, server.address(f'{folder}/weights.pth'))
        except PretrainedWeightsError as error:
            ends[folder] = str(error)
        else:
            ends[folder] = ours[1].weight

    server.answer = answer
    ends = {}
    threads = [threading.Thread(target=load, args=(folder,)) for folder in ('one', 'two')]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (refusal,) = [(folder, end) for folder, end in ends.items() if isinstance(end, str)]
    other = {'one': 'two', 'two': 'one'}[refusal[0]]
    assert f'came from {server.address(f"{other}/weights.pth")}' in refusal[1]
    assert torch.equal(ends[other], network({'one': 0, 'two': 2}[other])[1].weight)


# --- what does not ------------------------------------------------------------------------------


def test_without_a_network_the_error_names_the_address_and_the_place_for_the_file(server, cache):
    server.server_close()
    refused(server, cache, 'cannot be reached .*If you have the file, put it at')
    assert not list(cache.glob('*.pth*part*'))


@pytest.mark.parametrize('status', [401, 403, 404, 410])
def test_a_refusal_is_one_error_at_once(server, cache, status):
    server.answer = lambda request: request.send(b'no', status)
    refused(server, cache, f'answered {status}')
    assert len(server.requests) == 1


def test_a_server_that_stays_busy_is_an_error(server, cache):
    server.answer = lambda request: request.send(b'', 503)
    refused(server, cache, 'broke 5 times.*answered 503')
    assert not list(cache.glob('*.part*'))


def test_a_server_that_sends_nothing_leaves_nothing_behind(server, cache):
    server.answer = lambda request: request.send_from(WEIGHTS, 0, ETag='"one"')
    refused(server, cache, 'broke 5 times.*after 0 of')
    assert not list(cache.glob('*.part*'))


def test_a_redirect_loop_is_an_error(server, cache):
    server.answer = lambda request: request.head(302, Location=request.path, Content_Length=0)
    refused(server, cache, 'redirect')


def test_a_redirect_to_a_local_file_is_an_error(server, cache, tmp_path):
    (tmp_path / 'secret').write_bytes(WEIGHTS)
    location = f'file://{tmp_path}/secret'
    server.answer = lambda request: request.head(302, Location=location, Content_Length=0)
    refused(server, cache, 'redirect|not allowed')


def test_a_web_page_instead_of_a_file_is_an_error(server, cache):
    server.answer = lambda request: request.send(b'<!DOCTYPE html><html>Sign in</html>')
    refused(server, cache, 'web page')


@pytest.mark.parametrize('sent', [b'', WEIGHTS[:3000], OLD_WEIGHTS[:3000]])
def test_a_file_that_is_not_whole_is_an_error_even_if_the_length_agrees(server, cache, sent):
    server.answer = lambda request: request.send(sent)
    refused(server, cache, 'empty|cut')
    assert not list(cache.glob('*.part*'))


@pytest.mark.parametrize('damage', ['a byte', 'zeros', 'a name'])
def test_a_damaged_file_is_an_error_even_if_its_ends_are_whole(server, cache, damage):
    data = bytearray(WEIGHTS)
    numbers = data.index(network()[1].weight.detach().numpy().tobytes()[:64])
    if damage == 'a byte':
        data[numbers + 5000] ^= 1
    elif damage == 'zeros':
        data[numbers + 5000 : numbers + 9096] = bytes(4096)
    else:
        data[data.index(b'archive/data/1')] ^= 1
    server.answer = lambda request: request.send(bytes(data), ETag='"one"')
    refused(server, cache, r'checksum of archive/data/\d in it does not agree')
    assert not list(cache.glob('*.part*'))


def test_a_file_that_was_saved_without_checksums_loads_by_its_hash(server, cache):
    torch.serialization.set_crc32_options(False)
    try:
        data = file_of(network().state_dict())
    finally:
        torch.serialization.set_crc32_options(True)
    server.answer = lambda request: request.send(data)
    refused(server, cache, r'saved without checksums, give its sha256=')
    loads(server.address(), sha256=hashlib.sha256(data).hexdigest())


def test_a_length_that_is_too_long_is_an_error(server, cache):
    def answer(request):
        request.send(WEIGHTS, Content_Length=len(WEIGHTS) + 10)
        request.close_connection = True

    server.answer = answer
    refused(server, cache, f'{len(WEIGHTS)} of {len(WEIGHTS) + 10} bytes')


def test_a_length_that_is_too_short_is_an_error(server, cache):
    server.answer = lambda request: request.send(WEIGHTS, Content_Length=len(WEIGHTS) - 10)
    refused(server, cache, 'cut')


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('weights-00000000.pth', {}),
        ('weights-ABCDEF00.pth', {}),
        ('weights.pth', {'sha256': '0' * 64}),
    ],
)
def test_a_wrong_hash_is_an_error_and_the_file_is_not_kept(server, cache, name, settings):
    server.answer = lambda request: request.send(WEIGHTS)
    refused(server, cache, f'sha256 {HASH} where [A-F0]+ is expected', name, **settings)
    assert not list(cache.glob('*.pth*part*'))


def test_a_cached_file_with_a_wrong_hash_is_an_error(server, cache):
    cache.mkdir(parents=True)
    (cache / 'weights-00000000.pth').write_bytes(WEIGHTS)
    with pytest.raises(PretrainedWeightsError, match='Remove the file to have it fetched again'):
        load_pretrained(network(), server.address('weights-00000000.pth'))


def test_a_malicious_pickle_from_a_server_does_not_run(server, tmp_path):
    content = {
        'state_dict': network().state_dict(),
        'extra': Payload(os.mkdir, str(tmp_path / 'was_here')),
    }
    for number, zipped in enumerate((True, False)):
        data = file_of(content, zipped)
        server.answer = lambda request, data=data: request.send(data)
        with pytest.raises(PretrainedWeightsError, match='mkdir'):
            load_pretrained(network(), server.address(f'{number}.pth'))
    assert not (tmp_path / 'was_here').exists()


def test_an_address_without_a_file_name_is_an_error(server):
    with pytest.raises(PretrainedWeightsError, match='names no file'):
        load_pretrained(network(), server.address(''))
