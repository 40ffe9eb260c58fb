"""``python -m tools.console.pictures URL``: each page of a console as a picture in docs/images/, in four forms.

Light and dark, wide and narrow. The console of `make console` is one to take them from. Pages that lead on from others
(an event, a run) are found by their first link.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import click
import uvicorn
from playwright.sync_api import Page, sync_playwright

import pgonce
from pgonce.console.auth import hash_password

FOLDER = Path("docs/images")
ARGUMENTS = (
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# name: the page, and the links and buttons on it that lead there
PAGES: dict[str, tuple[str, ...]] = {
    "now": ("",),
    "webhooks": ("webhooks",),
    "event": ("webhooks?state=dead", "main tbody a[href*='/webhook?']"),
    "payload": (
        "webhooks?state=dead",
        "main tbody a[href*='/webhook?']",
        "summary >> nth=-1",
        "text=On a page of its own",
    ),
    "replay": ("webhooks?state=dead", "text=/^Replay \\d+ …$/ >> nth=0"),
    "jobs": ("jobs",),
    "week": ("jobs?days=7",),
    "job": ("job?name=ledger_export",),
    "run": ("job?name=ledger_export", "main tbody a[href*='/run?']"),
    "imports": ("imports",),
    "import": ("import?name=catalog_prices",),
    "proof": ("import/proof?name=catalog_prices",),
    "rejects": ("import?name=catalog_prices", "main tbody a[href*='/rejects?']"),
    "alerts": ("alerts",),
    "audit": ("audit",),
}
LOGIN = "login"
"""The console of `make console` needs none, so this page is of another one, which asks no database."""
SCREENS = (("light", 1440), ("dark", 1440), ("light", 360), ("dark", 360))
TALLEST = 1300
"""Pixels of a picture."""


@click.command()
@click.argument("url")
@click.option("--only", multiple=True, type=click.Choice([*sorted(PAGES), LOGIN]), help="Repeatable. Default: all.")
def pictures(url: str, only: tuple[str, ...]) -> None:
    """Take the pictures of the console at URL, which needs no login."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    base = url if url.endswith("/") else f"{url}/"
    with sync_playwright() as playwright, _login_page() as login:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for scheme, width in SCREENS:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
                timezone_id="Europe/Berlin",
            )
            page = context.new_page()
            page.goto(base)  # the first page sets the zone
            for name in only or [*PAGES, LOGIN]:
                if _open(page, login, "") if name == LOGIN else _open(page, base, *PAGES[name]):
                    _take(page, FOLDER / f"{name}-{scheme}-{'wide' if width > 800 else 'narrow'}.png")
                else:
                    click.echo(f"{name}: there is no such page here", err=True)
            context.close()
        browser.close()


@contextmanager
def _login_page() -> Iterator[str]:
    console = pgonce.Console(
        pgonce.App(name="shop"), users=f"ops:operator:{hash_password('x', log_n=10)}", user=lambda _: None
    )
    server = uvicorn.Server(uvicorn.Config(console, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/login"
    server.should_exit = True
    thread.join()


def _open(page: Page, base: str, path: str, *links: str) -> bool:
    answer = page.goto(base + path)
    for link in links:
        found = page.locator(link).first
        if not found.count():
            return False
        address = found.get_attribute("href")
        if address is None:  # a button, or a fold
            found.click()
            page.wait_for_load_state()
        else:
            answer = page.goto(urljoin(page.url, address))
    return answer is not None and answer.status == 200


def _take(page: Page, file: Path) -> None:
    width = (page.viewport_size or {"width": 1440})["width"]
    height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
    page.screenshot(path=file, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    click.echo(str(file))


if __name__ == "__main__":
    pictures(prog_name="python -m tools.console.pictures")
