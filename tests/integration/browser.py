"""A real browser for tests: Debian's chromium, without a window."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, expect, sync_playwright

from tests.programs import needed

FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-dev-shm-usage"]
PATIENCE_MS = 60_000
"""Of a busy machine; nothing that tests wait for takes a second on an idle one."""


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser, or the end of the test where there is none."""
    program = shutil.which("chromium-browser") or needed("chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS, timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            browser.close()
