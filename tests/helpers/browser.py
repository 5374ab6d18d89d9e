"""A headless Chromium, driven through the WebDriver interface of its chromedriver."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

OPTIONS = {
    'args': ['--headless=new', '--no-sandbox', '--disable-gpu', '--window-size=1400,1000'],
    'binary': shutil.which('chromium') or shutil.which('google-chrome') or '',
}
needs_browser = pytest.mark.skipif(
    not (shutil.which('chromedriver') and OPTIONS['binary']),
    reason='no Chromium with its chromedriver (packages chromium and chromium-driver of Debian)',
)


class Browser:
    """One window."""

    def __init__(self, address: str) -> None:
        self.address = address
        capabilities = {'alwaysMatch': {'goog:chromeOptions': OPTIONS}}
        self.address += f'/session/{self.post("", capabilities=capabilities)["sessionId"]}'

    def post(self, command: str, **body: Any) -> Any:
        path = f'/{command}' if command else '/session'
        answer = requests.post(self.address + path, json=body, timeout=120).json()['value']
        if isinstance(answer, dict) and 'error' in answer:
            raise AssertionError(answer['message'])
        return answer

    def open(self, path: Path) -> None:
        self.post('url', url=path.resolve().as_uri())

    def run(self, script: str) -> Any:
        """The value of a script's ``return``, in the page."""
        return self.post('execute/sync', script=script, args=[])

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + 60
        while not self.run(f'return Boolean({condition})'):
            assert time.monotonic() < end, f'not true in a minute: {condition}'
            time.sleep(0.05)

    def element(self, selector: str) -> str:
        found = self.post('element', using='css selector', value=selector)
        return next(iter(found.values()))

    def click(self, selector: str) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                self.post(f'element/{self.element(selector)}/click')
            except AssertionError as error:  # another element lies above, until all is laid out
                if 'intercepted' not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return

    def type(self, selector: str, text: str) -> None:
        self.post(f'element/{self.element(selector)}/value', text=text)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    driver = subprocess.Popen(
        ['chromedriver', '--port=0'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    window = None
    try:
        lines = iter(driver.stdout.readline, '')
        told = next(line for line in lines if 'started successfully on port' in line)
        window = Browser(f'http://127.0.0.1:{told.split()[-1].rstrip(".")}')
        yield window
    finally:
        if window:
            requests.delete(window.address, timeout=60)
        driver.terminate()
        driver.wait()
