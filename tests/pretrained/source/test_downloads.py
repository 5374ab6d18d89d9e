"""Downloads from a server on the loopback that does everything wrong."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import multiprocessing
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from tests.helpers.attacks import Payload
from tests.helpers.processes import run_copy
from tests.helpers.torch_features import saved_without_checksums


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))


def file_of(content: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


WEIGHTS = file_of(network().state_dict())
OLD_WEIGHTS = file_of(network().state_dict(), zipped=False)
OTHERS = file_of(network(seed=2).state_dict())
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

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        self.close_connection = True  # also where the answer has no head
        self.server.requests.append(self)
        self.server.answer(self)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *args):
        pass

    def head(self, status: int, **headers) -> None:
        self.send_response(status)
        self.send_header('Connection', 'close')
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()

    def send(self, data: bytes, status: int = 200, **headers) -> None:
        self.head(status, **{'Content_Length': len(data), **headers})
        if self.command == 'GET':
            self.wfile.write(data)

    # Ways in which a connection breaks.

    def send_half(self) -> None:
        self.head(200, Content_Length=len(WEIGHTS))
        self.wfile.write(WEIGHTS[: len(WEIGHTS) // 2])

    def send_half_a_chunk(self) -> None:
        self.head(200, Transfer_Encoding='chunked')
        self.wfile.write(b'%x\r\n' % len(WEIGHTS) + WEIGHTS[:1000])

    def send_nothing(self) -> None:
        pass

    def reset(self) -> None:
        """Break the connection as a crash does, without closing it first."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.connection.close()
        self.wfile = io.BytesIO()


BROKEN = [Handler.send_half, Handler.send_half_a_chunk, Handler.send_nothing, Handler.reset]


@pytest.fixture
def server():
    server = Server()
    server.answer = lambda request: request.send(WEIGHTS)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.stop()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


@pytest.fixture
def no_pauses(monkeypatch) -> None:
    """pooch and the Hugging Face hub wait longer before each retry."""
    monkeypatch.setattr('time.sleep', lambda seconds: None)


def loads(address: str, seed: int = 0, **settings) -> None:
    ours = network(seed=seed + 1)
    assert load_pretrained(ours, address, **settings).coverage == 1
    assert torch.equal(ours[1].weight, network(seed)[1].weight)


def refused(server: Server, cache: Path, message: str, name: str = 'weights.pth', **settings):
    """One error with the address and the path for the file; nothing but the lock is left."""
    with pytest.raises(PretrainedWeightsError, match=message) as caught:
        load_pretrained(network(seed=1), server.address(name), **settings)
    assert f'No weights from {server.address(name)}: ' in str(caught.value)
    assert f'If you have the file, put it at {cache / name}.' in str(caught.value)
    for way in ('another file', 'None', '--backbone efficientnet_lite0'):
        assert way in str(caught.value)
    assert {file.suffix for file in cache.iterdir()} <= {'.lock'}


# --- what works ---------------------------------------------------------------------------------


@pytest.mark.parametrize('data', [WEIGHTS, OLD_WEIGHTS], ids=['zip', 'old'])
def test_a_file_is_downloaded_once_and_kept_where_torch_hub_keeps_it(server, cache, data):
    server.answer = lambda request: request.send(data)
    loads(server.address())
    loads(server.address())
    assert len(server.requests) == 1
    assert (cache / 'weights.pth').read_bytes() == data


def test_a_downloaded_file_has_the_permissions_of_any_new_file(server, cache):
    loads(server.address())
    (cache / 'new').touch()
    assert (cache / 'weights.pth').stat().st_mode == (cache / 'new').stat().st_mode


def test_a_file_put_into_the_cache_by_hand_is_taken_without_a_connection(server, cache):
    cache.mkdir(parents=True)
    (cache / 'weights.pth').write_bytes(WEIGHTS)
    loads(server.address())
    assert not server.requests


def test_a_file_of_the_same_name_from_another_address_is_not_taken_for_this_one(server):
    loads(server.address('one/weights.pth'))
    with pytest.raises(PretrainedWeightsError, match=r'came from .*/one/weights\.pth.*sha256='):
        load_pretrained(network(seed=1), server.address('two/weights.pth'))
    loads(server.address('two/weights.pth'), sha256=HASH)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    'name', ['weights.pth', f'weights-{HASH[:8]}.pth', f'weights-{HASH[:8].upper()}.pth']
)
def test_a_right_hash_passes(server, name):
    loads(server.address(name), sha256=HASH)
    loads(server.address(name), sha256=HASH[:16].upper())


def test_a_date_in_the_name_is_no_hash(server):
    loads(server.address('psp_r50-20200605.pth'))


def test_a_redirect_is_followed(server):
    def answer(request):
        if request.path == '/here.pth':
            request.head(302, Location='/there.pth', Content_Length=0)
        else:
            request.send(WEIGHTS)

    server.answer = answer
    loads(server.address('here.pth'))


def test_a_file_may_come_in_chunks_without_a_length(server):
    def answer(request):
        request.head(200, Transfer_Encoding='chunked')
        request.wfile.write(b'%x\r\n' % len(WEIGHTS) + WEIGHTS + b'\r\n0\r\n\r\n')

    server.answer = answer
    loads(server.address())


def test_an_address_may_hold_spaces_and_letters_beyond_ascii(server, cache):
    loads(server.address('große gewichte.pth?of=ä b'))
    assert server.requests[0].path == '/gro%C3%9Fe%20gewichte.pth?of=%C3%A4%20b'
    assert (cache / 'große gewichte.pth').is_file()
    loads(server.address('100%25 sure%2B.pth'))
    assert server.requests[1].path == '/100%25%20sure%2B.pth'


def test_a_signed_address_works_again_with_another_signature_and_is_not_kept(server, tmp_path):
    loads(server.address('weights.pth?signature=secret'))
    loads(server.address('weights.pth?signature=another'))
    assert server.requests[0].path == '/weights.pth?signature=secret'
    kept = [file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()]
    assert kept
    assert not any(b'secret' in data for data in kept)


def test_a_bar_shows_the_progress_and_the_size(server, capsys):
    loads(server.address())
    printed = capsys.readouterr().err
    assert '0%|' in printed
    assert '100%|' in printed
    assert f'{len(WEIGHTS) / 1000:.0f}k/{len(WEIGHTS) / 1000:.0f}k' in printed


@pytest.mark.usefixtures('no_pauses')
@pytest.mark.parametrize('breaks', BROKEN)
def test_a_connection_that_breaks_is_tried_again(server, cache, breaks):
    def answer(request):
        breaks(request) if len(server.requests) < 3 else request.send(WEIGHTS)

    server.answer = answer
    loads(server.address())
    assert (cache / 'weights.pth').read_bytes() == WEIGHTS


@pytest.mark.usefixtures('no_pauses')
@pytest.mark.parametrize('status', [429, 500, 503])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(server, status):
    def answer(request):
        busy = len(server.requests) < 3
        request.send(b'', status) if busy else request.send(WEIGHTS)

    server.answer = answer
    loads(server.address())


def _load_in_a_process(address: str, barrier) -> None:
    torch.set_num_threads(1)  # the threads of the parent are not here
    barrier.wait()
    loads(address)


def test_of_several_processes_one_downloads(server):
    def answer(request):
        threading.Event().wait(0.3)
        request.send(WEIGHTS)

    server.answer = answer
    context = multiprocessing.get_context('fork')
    arguments = (server.address(), context.Barrier(3))
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
        request.send(WEIGHTS if 'one' in request.path else OTHERS)

    def load(folder: str, seed: int) -> None:
        try:
            loads(server.address(f'{folder}/weights.pth'), seed)
        except PretrainedWeightsError as error:
            refusals.append((folder, str(error)))

    server.answer = answer
    refusals: list[tuple[str, str]] = []
    threads = [threading.Thread(target=load, args=case) for case in (('one', 0), ('two', 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((folder, message),) = refusals
    other = {'one': 'two', 'two': 'one'}[folder]
    assert f'came from {server.address(f"{other}/weights.pth")}' in message
    loads(server.address(f'{other}/weights.pth'), {'one': 0, 'two': 2}[other])
    assert len(server.requests) == 1


# --- what does not ------------------------------------------------------------------------------


@pytest.mark.usefixtures('no_pauses')
def test_without_a_network_the_error_names_the_address_and_the_place_for_the_file(server, cache):
    server.stop()
    refused(server, cache, 'Connection refused')


@pytest.mark.parametrize('status', [401, 403, 404, 410])
def test_a_refusal_is_one_error_at_once(server, cache, status):
    server.answer = lambda request: request.send(b'no', status)
    refused(server, cache, f': {status} Client Error')
    assert len(server.requests) == 1


@pytest.mark.usefixtures('no_pauses')
def test_a_server_that_stays_busy_is_an_error(server, cache):
    server.answer = lambda request: request.send(b'', 503)
    refused(server, cache, ': 503 Server Error')
    assert len(server.requests) == 4


@pytest.mark.usefixtures('no_pauses')
@pytest.mark.parametrize('breaks', BROKEN)
def test_a_connection_that_breaks_each_time_is_an_error(server, cache, breaks):
    server.answer = breaks
    refused(server, cache, 'No weights from')


@pytest.mark.usefixtures('no_pauses')
def test_a_redirect_loop_is_an_error(server, cache):
    server.answer = lambda request: request.head(302, Location=request.path, Content_Length=0)
    refused(server, cache, 'redirects')


@pytest.mark.usefixtures('no_pauses')
def test_a_redirect_to_a_local_file_is_an_error(server, cache, tmp_path):
    (tmp_path / 'secret').write_bytes(WEIGHTS)
    location = f'file://{tmp_path}/secret'
    server.answer = lambda request: request.head(302, Location=location, Content_Length=0)
    refused(server, cache, 'file://')


def test_a_web_page_instead_of_a_file_is_an_error(server, cache):
    server.answer = lambda request: request.send(b'<!DOCTYPE html><html>Sign in</html>')
    refused(server, cache, 'web page')


@pytest.mark.parametrize(
    'sent', [b'', WEIGHTS[:3000], OLD_WEIGHTS[:3000]], ids=['empty', 'zip', 'old']
)
def test_a_file_that_is_not_whole_is_an_error_even_if_the_length_agrees(server, cache, sent):
    server.answer = lambda request: request.send(sent)
    refused(server, cache, 'what came is (empty|cut|damaged)')


def test_a_damaged_file_is_an_error_even_if_its_ends_are_whole(server, cache):
    data = bytearray(WEIGHTS)
    data[data.index(network()[1].weight.detach().numpy().tobytes()[:64])] ^= 1
    server.answer = lambda request: request.send(bytes(data))
    refused(server, cache, r'checksum of archive/data/\d in it does not agree')


def test_a_file_that_was_saved_without_checksums_loads_by_its_hash(server, cache):
    with saved_without_checksums():
        data = file_of(network().state_dict())
    server.answer = lambda request: request.send(data)
    refused(server, cache, r'saved without checksums, give its sha256=')
    loads(server.address(), sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('weights-00000000.pth', {}),
        ('weights-ABCDEF00.pth', {}),
        ('weights.pth', {'sha256': '0' * 64}),
    ],
)
def test_a_wrong_hash_is_an_error_and_the_file_is_not_kept(server, cache, name, settings):
    refused(server, cache, f'sha256 {HASH} where [A-F0]+ is expected', name, **settings)


def test_a_cached_file_with_a_wrong_hash_is_an_error(server, cache):
    cache.mkdir(parents=True)
    (cache / 'weights-00000000.pth').write_bytes(WEIGHTS)
    with pytest.raises(PretrainedWeightsError, match=r'Remove .*00\.pth to have it fetched again'):
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


# --- the Hugging Face hub -----------------------------------------------------------------------


def print_each(*references: str) -> None:
    # The package reads its environment when it is imported.
    for name in [name for name in sys.modules if name.partition('.')[0] == 'huggingface_hub']:
        del sys.modules[name]
    time.sleep = lambda seconds: None  # it waits 23 seconds between its tries
    for reference in references:
        try:
            print('LOADED', load_pretrained(network(), reference).sha256)
        except PretrainedWeightsError as error:
            print('ERROR', error)


@pytest.fixture
def load_each(tmp_path) -> Callable[..., list[tuple[str, str]]]:
    """What became of each reference, loaded one after the other in a process of its own."""

    def load(*references: str) -> list[tuple[str, str]]:
        code, output = run_copy(print_each, *references, folder=tmp_path)
        assert code == 0, output
        lines = [line.partition(' ') for line in output.splitlines()]
        return [(word, rest) for word, _, rest in lines if word in ('LOADED', 'ERROR')]

    return load


@pytest.fixture
def hub(server, tmp_path, monkeypatch) -> Server:
    """A server that answers as the hub does, for those who have the token."""

    def answer(request):
        known = request.path.endswith('/weights.pth')
        if known and request.headers['Authorization'] == 'Bearer secret':
            request.send(WEIGHTS, ETag=f'"{HASH}"', X_Repo_Commit='a' * 40)
        else:
            request.send(b'', 404)

    server.answer = answer
    monkeypatch.setenv('HF_ENDPOINT', server.address('').rstrip('/'))
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    monkeypatch.setenv('HF_TOKEN', 'secret')
    return server


def told_by_hand(server: Server, cache: Path, error: str) -> None:
    url = server.address('org/repo/resolve/main/folder/other.pth')
    assert error.startswith(f'No weights from {url}: ')
    place = cache / 'org--repo--folder--other.pth'
    assert f'If you have the file, put it at {place}.' in error


def test_a_file_of_the_hub_is_downloaded_once_into_its_own_cache(hub, load_each, cache, tmp_path):
    known, unknown = 'hf://org/repo@v1/weights.pth', 'hf://org/repo/folder/other.pth'
    first, second, (word, error) = load_each(known, known, unknown)
    assert first == second == ('LOADED', HASH)
    asked = [(r.command, r.path) for r in hub.requests if r.path.endswith('/weights.pth')]
    path = '/org/repo/resolve/v1/weights.pth'
    assert asked == [('HEAD', path), ('GET', path)]
    assert [file.name for file in tmp_path.rglob('weights.pth*')] == ['weights.pth']
    assert word == 'ERROR'
    told_by_hand(hub, cache, error)


def test_an_index_on_the_hub_brings_its_shards(hub, load_each):
    tensors = list(network().state_dict().items())
    names, files = {}, {}
    for number, part in enumerate((tensors[:2], tensors[2:]), 1):
        name = f'model-{number:05}-of-00002.safetensors'
        files[name] = safetensors.torch.save(dict(part))
        names |= dict.fromkeys(dict(part), name)
    files['model.safetensors.index.json'] = json.dumps({'weight_map': names}).encode()

    def answer(request):
        data = files.get(request.path.rpartition('/')[2])
        tag = hashlib.sha256(data or b'').hexdigest()
        request.send(data or b'', 200 if data else 404, ETag=f'"{tag}"', X_Repo_Commit='a' * 40)

    hub.answer = answer
    reference = 'hf://org/repo/folder/model.safetensors.index.json'
    assert [word for word, _ in load_each(reference, reference)] == ['LOADED', 'LOADED']
    asked = [r.path.rpartition('/')[2] for r in hub.requests if r.command == 'GET']
    assert [asked.count(name) for name in files] == [1, 1, 1]
    files.pop('model-00002-of-00002.safetensors')
    ((word, error),) = load_each('hf://org/other/model.safetensors.index.json')
    assert (word, error.count('No weights from ')) == ('ERROR', 1)


def test_a_file_of_the_hub_can_be_put_into_the_cache_by_hand_where_there_is_no_network(
    hub, load_each, cache
):
    hub.stop()
    reference = 'hf://org/repo/folder/other.pth'
    ((word, error),) = load_each(reference)
    assert word == 'ERROR'
    told_by_hand(hub, cache, error)
    cache.mkdir(parents=True)
    (cache / 'org--repo--folder--other.pth').write_bytes(WEIGHTS)
    loads(reference)
