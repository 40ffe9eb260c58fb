"""``python -m tools.console.pictures URL``: each page of a console as a picture in docs/images/, in four forms.

Light and dark, wide and narrow. The console of `make console` is one to take them from. Pages that lead on from others
(an event, a run) are found by their first link.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urljoin

import click
from playwright.sync_api import Page, sync_playwright

FOLDER = Path("docs/images")
ARGUMENTS = (
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# name: the page, or the page and the link on it that leads there
PAGES = {
    "now": ("", None),
    "webhooks": ("webhooks", None),
    "event": ("webhooks?state=dead", "main tbody a[href*='/webhook?']"),
    "jobs": ("jobs", None),
    "job": ("job?name=ledger_export", None),
    "run": ("job?name=ledger_export", "main tbody a[href*='/run?']"),
    "imports": ("imports", None),
    "import": ("import?name=catalog_prices", None),
    "proof": ("import/proof?name=catalog_prices", None),
    "alerts": ("alerts", None),
    "audit": ("audit", None),
}
SCREENS = (("light", 1440), ("dark", 1440), ("light", 360), ("dark", 360))
TALLEST = 1300
"""Pixels of a picture."""


@click.command()
@click.argument("url")
@click.option("--only", multiple=True, type=click.Choice(sorted(PAGES)), help="These pages. Repeatable. Default: all.")
def pictures(url: str, only: tuple[str, ...]) -> None:
    """Take the pictures of the console at URL, which needs no login."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    base = url if url.endswith("/") else f"{url}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for scheme, width in SCREENS:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
                timezone_id="Europe/Berlin",
            )
            page = context.new_page()
            page.goto(base)  # the first page sets the zone
            for name in only or PAGES:
                if _open(page, base, *PAGES[name]):
                    _take(page, FOLDER / f"{name}-{scheme}-{'wide' if width > 800 else 'narrow'}.png")
                else:
                    click.echo(f"{name}: there is no such page here", err=True)
            context.close()
        browser.close()


def _open(page: Page, base: str, path: str, link: str | None) -> bool:
    answer = page.goto(base + path)
    if link is not None:
        found = page.locator(link).first
        if not found.count():
            return False
        answer = page.goto(urljoin(page.url, found.get_attribute("href") or ""))
    return answer is not None and answer.status == 200


def _take(page: Page, file: Path) -> None:
    width = (page.viewport_size or {"width": 1440})["width"]
    height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
    page.screenshot(path=file, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    click.echo(str(file))


if __name__ == "__main__":
    pictures(prog_name="python -m tools.console.pictures")
