"""A headless Chromium of the system, and the page of a small post office."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .post import Office, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""As root, Chromium starts without its sandbox only; the others keep it from asking anybody anything by itself."""
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 320, "height": 700}


def missing() -> str | None:
    """What keeps a browser from being started, in a sentence."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: python -m pip install playwright axe-playwright-python"
    if chromium() is None:
        return "no Chromium is here: apt-get install chromium"
    return None


def chromium() -> str | None:
    """The system's own Chromium."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a file's tests; without one they are skipped, or fail where BROWSER_TESTS is set.

    No longer than that: while it is open this thread runs an event loop, and other files' tests open engines on it.
    """
    if (reason := missing()) is not None:
        if os.environ.get("BROWSER_TESTS"):
            pytest.fail(f"the page is not tested in a browser: {reason}")
        pytest.skip(f"the page is not tested in a browser: {reason}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield opened
        opened.close()


@dataclass
class Watched:
    """A tab, and what happened in it besides what the test asked for.

    Attributes:
        asked: the address of every request.
        said: errors of scripts and of the console.
    """

    page: Page
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@pytest.fixture
def serve() -> Iterator[Callable[..., Office]]:
    """Serves the page of a trace until the test has ended: ``serve(folder)``, and all that :func:`serving` takes."""
    with ExitStack() as served:
        yield lambda *args, **more: served.enter_context(serving(*args, **more))


@pytest.fixture
def tab(browser: Browser, serve: object) -> Iterator[Callable[..., Watched]]:
    """Opens tabs: ``tab(address)``. When the test ends, none may have asked another server or had an error.

    It is told to close before what ``serve`` serves: a browser asks for a page's icon when it likes, and a server that
    has gone would be an error.
    """
    opened: list[tuple[Watched, str]] = []

    def make(address: str, *, scheme: str = "light", size: dict[str, int] = WIDE, scripts: bool = True) -> Watched:
        context = browser.new_context(
            color_scheme=scheme, viewport=size, java_script_enabled=scripts, reduced_motion="reduce", base_url=address
        )
        context.set_default_timeout(60_000)  # machines are busy
        page = context.new_page()
        found = Watched(page)
        page.on("request", lambda request: found.asked.append(request.url))
        page.on("pageerror", lambda error: found.said.append(str(error)))
        page.on("console", lambda said: found.said.append(said.text) if said.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: found.said.append(f"a dialog: {dialog.message}"))
        opened.append((found, address))
        return found

    yield make
    for found, address in opened:
        found.page.context.close()
        assert all(url.startswith((address, "data:")) for url in found.asked), found.asked
        assert not found.said


@pytest.fixture
def pictures() -> Callable[[Page, str], None]:
    """Writes a picture of a tab into the folder that DOCS_IMAGES names; does nothing without it."""
    folder = os.environ.get("DOCS_IMAGES")

    def take(page: Page, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")

    return take
