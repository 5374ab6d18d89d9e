"""Downloads from a server on the loopback that does everything wrong."""

from __future__ import annotations

import hashlib
import http.server
import io
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pspnet_plugin.pretrained import PretrainedWeightsError, downloads, load_pretrained

from .test_reading import Attack


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))


def file_of(content: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


WEIGHTS = file_of(network().state_dict())
OLD_WEIGHTS = file_of(network().state_dict(), zipped=False)
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
    monkeypatch.setattr(downloads, 'TIMEOUT_SECONDS', 5)
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


@pytest.mark.parametrize('name', ['weights.pth', f'weights-{HASH[:8]}.pth'])
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


def test_a_file_that_changed_on_the_server_is_not_glued_together(server, cache):
    server.answer = lambda request: request.send_from(b'x' * 9000, 1000, ETag='"one"')
    refused(server, cache, 'broke 5 times')
    # A server that knows If-Range sends the whole of another version.
    server.answer = lambda request: request.send(WEIGHTS, ETag='"two"')
    loads(server.address())


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
    [('weights-00000000.pth', {}), ('weights.pth', {'sha256': '0' * 64})],
)
def test_a_wrong_hash_is_an_error_and_the_file_is_not_kept(server, cache, name, settings):
    server.answer = lambda request: request.send(WEIGHTS)
    refused(server, cache, f'sha256 {HASH} where 0+ is expected', name, **settings)
    assert not list(cache.glob('*.pth*part*'))


def test_a_cached_file_with_a_wrong_hash_is_an_error(server, cache):
    cache.mkdir(parents=True)
    (cache / 'weights-00000000.pth').write_bytes(WEIGHTS)
    with pytest.raises(PretrainedWeightsError, match='Remove the file to have it fetched again'):
        load_pretrained(network(), server.address('weights-00000000.pth'))


def test_a_malicious_pickle_from_a_server_does_not_run(server, tmp_path):
    content = {'state_dict': network().state_dict(), 'extra': Attack(tmp_path / 'was_here')}
    for number, zipped in enumerate((True, False)):
        data = file_of(content, zipped)
        server.answer = lambda request, data=data: request.send(data)
        with pytest.raises(PretrainedWeightsError, match='mkdir'):
            load_pretrained(network(), server.address(f'{number}.pth'))
    assert not (tmp_path / 'was_here').exists()


def test_an_address_without_a_file_name_is_an_error(server):
    with pytest.raises(PretrainedWeightsError, match='names no file'):
        load_pretrained(network(), server.address(''))
