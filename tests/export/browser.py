"""Headless Chromium, driven by Playwright; a test that lacks either says so and is passed over."""

import contextlib
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120_000  # milliseconds: a busy machine is slow, not wrong


@contextlib.contextmanager
def chromium():
    """A browser of its own process."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser, file: Path, **options):
    """A page from the disk, without any network. In the end: it wrote nothing to the console, and asked for nothing but
    itself."""
    context = browser.new_context(offline=True, **options)
    context.set_default_timeout(PATIENCE)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.absolute().as_uri())
    page.wait_for_selector("be-chat-box textarea")
    try:
        yield page
    finally:
        context.close()
    assert (said, asked) == ([], [file.absolute().as_uri()])
