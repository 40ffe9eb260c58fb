"""Every page, with hostile text in everything that others write, and with every address changed."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import psycopg
import pytest
from psycopg import sql

import pgonce
from pgonce.console.text import visible
from tests.edge.console.conftest import served

Connection = psycopg.Connection[Any]
EVIL = (
    "</script></title><img src=x onerror=alert(1)>\"'`><svg/onload=alert(1)> {{7*7}} %s ${x} javascript:alert(1)"
    " url(//evil.example) \u202egnp.exe\u2066 \u0627\u0644 \\u0000 &amp; /..%2f?a=1#b\x1b[31m"
)
ROWS = Path(__file__).with_name("hostile.sql")
HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\x1b]")
NUMBERS = ("", "-1", "0", "9" * 30, "1e9", "\u0661", "NaN", "1.5")
TIMES = (
    "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", "9999-12-31T23:59:59.999999-12:00", "0001-01-01T00:00+14:00",
    "2026-02-30", "now", "infinity", "24:00",
)  # fmt: skip
IDS = (
    "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "x" * 5000, "\x00", "\ud800", "%",
    "*" * 300,
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(url: str, conn: Connection) -> Iterator[httpx.Client]:
    """A console whose rows are full of markup."""
    with conn.transaction():
        text = sql.Literal(EVIL).as_string(conn)
        made = "create function pg_temp.evil() returns text immutable language sql as $$ select "
        conn.execute(f"{made}{text} $$".encode())
        conn.execute(ROWS.read_bytes())
    console = pgonce.Console(pgonce.App(name=EVIL), url=url, user=lambda _: (EVIL, "operator"))
    with served(console, console.stop) as client:
        yield client


class Reader(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.links: set[str] = set()
        self.forms: set[str] = set()
        self.fields: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"img", "iframe", "object", "embed", "style", "base"} or (tag == "script" and "src" not in given):
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or name in {"style", "srcdoc"}:
                self.wrong.append(f"{tag} {name}")
            if name in {"href", "src", "action", "hx-get"} and value is not None:
                self.address(tag, value)
            if name == "value" and value:
                self.fields.setdefault(given.get("name") or "", []).append(value)
            elif value and HIDDEN.search(value):
                self.wrong.append(f"{tag} {name} with a sign that cannot be seen")

    def handle_data(self, data: str) -> None:
        if HIDDEN.search(data):
            self.wrong.append(f"a sign that cannot be seen in {data[:80]!r}")

    def address(self, tag: str, value: str) -> None:
        if value.startswith(("#", "/")) and not value.startswith("//"):
            if tag == "a" and not value.startswith("#"):
                self.links.add(value)
            elif tag == "form":
                self.forms.add(value)
        elif not value.startswith("https://dashboard.stripe.com/"):
            self.wrong.append(f"{tag} leads to {value[:80]}")


def read(page: httpx.Response) -> Reader:
    found = Reader()
    found.feed(page.text)
    return found


FIRST = (
    "/", "/webhooks", "/webhooks?state=dead", "/webhooks/replays", "/jobs", "/jobs?days=7", "/imports", "/alerts",
    "/audit", "/zone", f"/find?{urlencode({'q': EVIL})}",
)  # fmt: skip
PAGES = {
    "/", "/webhooks", "/webhook", "/webhook/payload", "/webhook/raw", "/webhooks/replays", "/webhooks/replay", "/jobs",
    "/job", "/job/runs", "/run", "/imports", "/import", "/import/proof", "/import/rejects", "/alerts", "/alerts/mute",
    "/audit", "/zone",
}  # fmt: skip


def crawl(client: httpx.Client) -> dict[str, httpx.Response]:
    """The pages that links lead to, one or a few of each kind."""
    pages: dict[str, httpx.Response] = {}
    kinds: dict[tuple[str, ...], int] = {}
    waiting = list(FIRST)
    while waiting:
        address = waiting.pop(0)
        parts = urlsplit(address)
        kind = (parts.path, *sorted(name for name, _ in parse_qsl(parts.query)))
        if address in pages or (kinds.get(kind, 0) >= 3 and address not in FIRST):
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
        page = pages[address] = client.get(address, follow_redirects=True)
        if page.headers["content-type"].startswith("text/html"):
            waiting += sorted(read(page).links)
    return pages


@pytest.fixture(scope="module")
def pages(hostile: httpx.Client) -> dict[str, httpx.Response]:
    return crawl(hostile)


def test_hostile_text_is_text_on_every_page(pages: dict[str, httpx.Response]) -> None:
    paths = {urlsplit(address).path for address in pages}
    assert paths >= PAGES
    for address, page in pages.items():
        assert page.status_code == 200, (address, page.status_code, re.sub("<[^>]+>", " ", page.text)[-600:])
        if page.headers["content-type"].startswith("text/html"):
            assert read(page).wrong == [], address
            assert len(page.content) <= 100_000, address


def test_a_form_sends_back_the_name_that_the_row_has(pages: dict[str, httpx.Response]) -> None:
    shown = [page for page in pages.values() if "html" in page.headers["content-type"]]
    forms = {address for page in shown for address in read(page).forms}
    sent = {(urlsplit(each).path, *field) for each in forms for field in parse_qsl(urlsplit(each).query)}
    assert sent >= {
        ("/job/resume", "name", EVIL), ("/import/pause", "name", f"{EVIL}1"), ("/webhook/ignore", "id", EVIL),
        ("/webhooks/plan", "id", EVIL), ("/webhooks/plan", "type", EVIL),
    }  # fmt: skip


def test_a_name_is_one_word_of_each_command_that_is_shown(pages: dict[str, httpx.Response]) -> None:
    shown = {html.unescape(command) for page in pages.values() for command in re.findall(">(pgonce [^<]+)<", page.text)}
    hostile = {command for command in shown if "alert(1)" in command}
    assert {command.split()[2] for command in hostile} >= {"retry-rejects", "replay"}
    for command in hostile:
        assert [word for word in shlex.split(command) if "alert(1)" in word and visible(EVIL) not in word] == []


def test_every_page_is_data_too(hostile: httpx.Client, pages: dict[str, httpx.Response]) -> None:
    for address in pages:
        parts = urlsplit(address)
        path = "/now" if parts.path == "/" else parts.path
        if path in {"/zone", "/find"} or path.endswith((".csv", "/table", "/raw")):
            continue
        found = hostile.get(f"{path}.json?{parts.query}", follow_redirects=True)
        assert (found.status_code, found.headers["content-type"]) == (200, "application/json"), address
        json.loads(found.content)


def test_a_changed_address_is_an_answer_and_never_a_fault(
    hostile: httpx.Client, pages: dict[str, httpx.Response], caplog: pytest.LogCaptureFixture
) -> None:
    names: dict[str, set[str]] = {}
    first: dict[str, dict[str, str]] = {}
    for address, page in pages.items():
        parts = urlsplit(address)
        given = dict(parse_qsl(parts.query))
        first.setdefault(parts.path, given)
        names.setdefault(parts.path, set()).update(given)
        if page.headers["content-type"].startswith("text/html"):
            names[parts.path] |= read(page).fields.keys() & {"find", "since", "until", "type", "day"}
    moments = [f"{moment}~{IDS[1]}" for moment in TIMES]
    for path, fields in names.items():
        for name in sorted(fields):
            values = (*TIMES, *moments) if name in {"before", "newest", "since", "until", "day"} else (*NUMBERS, *IDS)
            for value in values:
                changed = urlencode({**first[path], name: value}, errors="surrogatepass")
                answer = hostile.get(f"{path}?{changed}")
                assert answer.status_code in {200, 303, 400, 404}, (path, name, value, answer.text[-1500:])
                assert not answer.headers.get("location", "/").startswith(("//", "http"))
    assert caplog.text == ""
