"""Headless Chromium, which pages are tried in as a reader would open them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

INSTALL = "apt-get install chromium"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser as playwright drives it; skipped where none is installed, in CI an error."""
    from playwright.sync_api import sync_playwright

    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        message = f"needs a browser: {INSTALL}"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # Root, as CI's containers run, has no sandbox of its own; what is opened is ours.
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()
