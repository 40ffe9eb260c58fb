"""One browser, one database and one console for all tests of a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

import pgonce
from pgonce.console.auth import hash_password
from tests.conftest import _new_database
from tests.edge.serving import serve_asgi

PASSWORDS = {"ops": "secret", "support": "reads"}
"""An operator and a reader."""
USERS = ",".join(
    f"{name}:{role}:{hash_password(PASSWORDS[name], log_n=10)}"
    for name, role in (("ops", "operator"), ("support", "reader"))
)
ARGUMENTS = [
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def url(server: str, template: str) -> Iterator[str]:
    """A database for all tests of a file: each uses names of its own."""
    with _new_database(server, template) as url:
        yield url


@pytest.fixture(scope="module")
def conn(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A session on it, in autocommit."""
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


@contextmanager
def served(app: Any, stop: Any = None) -> Iterator[Any]:
    """``app`` on a free port, as `pgonce serve` and `pgonce console` run it; yields a client for its address."""
    yield from serve_asgi(app, stop, proxy_headers=False)


@pytest.fixture(scope="module")
def console(url: str) -> Iterator[str]:
    """The address of a console with the users in PASSWORDS, without a slash at its end."""
    app = pgonce.Console(url=url, users=USERS)
    with served(app, app.stop) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium: its build without windows where it is there, which takes two thirds of the processor time."""
    path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium: apt install chromium-headless-shell")
    with (
        sync_playwright() as playwright,
        closing(playwright.chromium.launch(executable_path=path, args=ARGUMENTS)) as browser,
    ):
        yield browser


@pytest.fixture(scope="module")
def logins() -> dict[Any, Any]:
    """The cookies of each login: a page of the login and two more take 2 s of CPU time."""
    return {}


@pytest.fixture
def open_page(chromium: Browser, console: str, logins: dict[Any, Any]) -> Iterator[Open]:
    """Opens a page of the console, logged in as ``name``; what the page or its policy reports fails the test."""
    contexts: list[BrowserContext] = []
    reported: list[str] = []

    def open_page(path: str = "/", name: str | None = "ops", base: str = "", **options: Any) -> Page:
        options = {"viewport": {"width": 1440, "height": 900}, "timezone_id": "Europe/Berlin", **options}
        scripts = options.get("java_script_enabled", True)
        login = (base or console, name, options["timezone_id"], scripts)
        contexts.append(chromium.new_context(storage_state=logins.get(login), **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda said: reported.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: reported.append(str(error)))
        page.goto((base or console) + path)
        if name is not None and page.locator(".who").count() == 0:  # the first time, or a test has ended all sessions
            log_in(page, name)
            if scripts:
                # The first page sets the viewer's zone and loads itself again, which would abort the test's next goto.
                page.wait_for_selector(f"#zone:text-is('{options['timezone_id']}')", state="attached")
            logins[login] = contexts[-1].storage_state()
        return page

    yield open_page
    for context in contexts:
        context.close()
    # of the login page's 401, a 403 and so on: the answers that a test asks for
    assert [line for line in reported if not line.startswith("Failed to load resource: the server responded")] == []


def log_in(page: Page, name: str) -> None:
    """Log in on the login page; it leads to the page that was asked for."""
    page.fill("[name=name]", name)
    page.fill("[name=password]", PASSWORDS[name])
    page.click("text=Log in >> nth=-1")
    page.wait_for_selector(".who")


def problems(page: Page, scheme: str = "light") -> list[str]:
    """What axe finds on the page that is serious or critical: the rule, and the first element.

    Both colour schemes have the same elements, so of the dark one only the rules about colours are asked. The 13th row
    of a table and those after it are made by the template of the first ones, and each is as slow as they are.
    """
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    # preload: no rule that is asked reads the style sheets
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if scheme == "dark":
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(Axe().axe_script)
    found: list[str] = page.evaluate(
        """async options => (await axe.run({exclude: ["tbody tr:nth-child(n + 13)"]}, options)).violations
        .filter(({impact}) => ["serious", "critical"].includes(impact))
        .map(({id, nodes}) => `${id}: ${nodes[0].html.slice(0, 200)}`)""",
        options,
    )
    return found
