"""`pgonce serve` as a process, over real HTTP: its answers, what it stores, and what its answers do not reveal.

An event is answered when it is recorded, so the tests wait for its effect.
"""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psycopg
import pytest

from pgonce.webhooks import stripe
from tests.conftest import _new_database, wait_until
from tests.faults.child import PGONCE, Child, Start, children
from tests.faults.proxy import proxy
from tests.faults.webhooks import shop

Db = psycopg.Connection[Any]

SECRET = "whsec_of_this_endpoint"
OLD_SECRET = "whsec_that_is_being_rolled"
PATH = "/webhooks/stripe"
CARD = "4242424242424242"


@pytest.fixture(scope="module")
def url(server: str, template: str) -> Iterator[str]:
    """A database for all tests of this module, which use events of their own."""
    with _new_database(server, template) as made:
        with psycopg.connect(made) as conn:
            conn.execute(shop.TABLES.encode())
        yield made


@pytest.fixture(scope="module")
def start(url: str) -> Iterator[Start]:
    with children(url) as starting:
        yield starting


def serve(start: Start, **settings: str) -> tuple[Child, str]:
    """A server on a free port, and its address."""
    settings = {"PGONCE_WEBHOOK_SECRET": f"{OLD_SECRET}, {SECRET}", **settings}
    server = start(*PGONCE, "serve", "--port", "0", **settings)
    return server, server.until(r"running on (http://[\d.:]+)")[1]


@pytest.fixture(scope="module")
def served(start: Start) -> tuple[Child, str]:
    return serve(start)


@pytest.fixture
def http(served: tuple[Child, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[1], timeout=30) as client:
        yield client


@pytest.fixture
def db(url: str) -> Iterator[Db]:
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def name() -> str:
    return f"evt_{uuid4().hex}"


@pytest.fixture
def _nothing_is_stored(db: Db) -> Iterator[None]:
    before = db.execute("select count(*) from webhook_events").fetchall()
    yield
    assert db.execute("select count(*) from webhook_events").fetchall() == before


def body(name: str, event_type: str = "effect", **more: Any) -> bytes:
    return json.dumps({"id": name, "type": event_type, **more}).encode()


def post(http: httpx.Client, raw: bytes, signature: str | None = "good", path: str = PATH) -> httpx.Response:
    signature = stripe.sign(raw, SECRET) if signature == "good" else signature
    return http.post(path, content=raw, headers={} if signature is None else {"Stripe-Signature": signature})


def says(answer: httpx.Response, status: int) -> str:
    """The error in an answer with this status; fails if the answer reveals anything internal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    for secret in (SECRET, OLD_SECRET, CARD, "Traceback"):
        assert secret not in answer.text
    return str(answer.json()["error"])


def status(db: Db, name: str) -> str | None:
    found = db.execute("select status from webhook_events where stripe_event_id = %s", [name]).fetchall()
    return found[0][0] if found else None


def effects(db: Db, name: str) -> int:
    return db.execute("select count(*) from effects where name = %s", [name]).fetchall()[0][0]


def handled(db: Db, name: str) -> None:
    wait_until(lambda: status(db, name) == "succeeded", "the event is handled")


# 200 ----------------------------------------------------------------------------------------------------------------


def test_a_delivery_is_answered_200_and_handled_once(http: httpx.Client, db: Db, name: str) -> None:
    for _ in range(3):
        answer = post(http, body(name))
        assert answer.status_code == 200, answer.text
        assert answer.json()["event"] == name
    handled(db, name)
    assert post(http, body(name)).status_code == 200
    assert effects(db, name) == 1


def test_while_a_secret_is_being_rolled_both_are_good(http: httpx.Client, db: Db, name: str) -> None:
    raw = body(name)
    assert post(http, raw, stripe.sign(raw, OLD_SECRET)).status_code == 200
    handled(db, name)


@pytest.mark.parametrize(
    "poison", [b'"a\\u0000b"', b'"\\ud800"', b"1e400000", b'"\xff\xfe"', b"[" * 70_000 + b"]" * 70_000],
    ids=["NUL", "lone surrogate", "number", "bytes", "depth"],
)  # fmt: skip
def test_a_payload_that_jsonb_cannot_hold_is_taken_handled_and_kept(
    http: httpx.Client, db: Db, name: str, poison: bytes
) -> None:
    raw = b'{"id":"%s","type":"effect","created":1,"x":%s}' % (name.encode(), poison)
    assert post(http, raw).status_code == 200
    handled(db, name)
    assert effects(db, name) == 1
    assert db.execute("select raw from webhook_events where stripe_event_id = %s", [name]).fetchall() == [(raw,)]


def test_a_type_without_a_handler_is_answered_200_and_ignored(http: httpx.Client, db: Db, name: str) -> None:
    assert post(http, body(name, "customer.created")).status_code == 200
    wait_until(lambda: status(db, name) == "ignored", "the event is ignored")


def test_healthz_says_that_the_receiver_is_alive(http: httpx.Client) -> None:
    assert http.get("/healthz").status_code == 200


def test_a_connection_goes_on_behind_an_error(http: httpx.Client, db: Db, name: str) -> None:
    for raw, signature, code in ((b"no", "good", 400), (body(name), None, 400), (body(name), "good", 200)):
        assert post(http, raw, signature).status_code == code
    handled(db, name)


# 4xx: nothing is stored -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_nothing_is_stored")
@pytest.mark.parametrize(
    "signature",
    [None, "", "nonsense", "t=1,v1=" + "0" * 64, "another body", "wrong secret", "old", "ahead"],
)
def test_without_a_good_signature_it_is_a_400(http: httpx.Client, name: str, signature: str | None) -> None:
    raw = body(name, card=CARD)
    now = int(time.time())
    made = {
        "another body": stripe.sign(b"another body", SECRET),
        "wrong secret": stripe.sign(raw, "whsec_wrong"),
        "old": stripe.sign(raw, SECRET, now - 400),
        "ahead": stripe.sign(raw, SECRET, now + 400),
    }
    assert "signature" in says(post(http, raw, made.get(str(signature), signature)), 400).lower()


@pytest.mark.usefixtures("_nothing_is_stored")
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"id=evt_1&type=effect", "not JSON"),
        (b'{"id":"evt_1","type":"effect"', "not JSON"),
        (b'{"id":"evt_1","type":"effect","x":NaN}', "not JSON"),
        (b'{"id":"evt_1","type":"effect","x":"\0"}', "not JSON"),
        (b"[]", "not an object"),
        (b'"evt_1"', "not an object"),
        (b"null", "not an object"),
        (b'[{"id":"evt_1","type":"effect"}]', "not an object"),
        (b'{"type":"effect"}', "'id'"),
        (b'{"id":"","type":"effect"}', "'id'"),
        (b'{"id":null,"type":"effect"}', "'id'"),
        (b'{"id":"evt_1"}', "'type'"),
        (b'{"id":"evt_1","type":""}', "'type'"),
    ],
    ids=lambda each: ascii(each[:30]) if isinstance(each, bytes) else "",
)
def test_what_is_no_event_is_a_400_that_says_why(http: httpx.Client, raw: bytes, reason: str) -> None:
    assert reason in says(post(http, raw), 400)


@pytest.mark.usefixtures("_nothing_is_stored")
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_another_method_is_a_405(http: httpx.Client, name: str, method: str) -> None:
    raw = body(name)
    answer = http.request(method, PATH, content=raw, headers={"Stripe-Signature": stripe.sign(raw, SECRET)})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.usefixtures("_nothing_is_stored")
@pytest.mark.parametrize(
    "path", ["/", "/webhooks", "/webhooks/stripe/more", "/webhooks/paypal", "/nothing?x=/webhooks/stripe"]
)
def test_another_path_is_a_404(http: httpx.Client, name: str, path: str) -> None:
    assert post(http, body(name), path=path).status_code == 404


def test_a_proxy_may_send_the_whole_address(http: httpx.Client, db: Db, name: str) -> None:
    raw = body(name)
    headers = {"Stripe-Signature": stripe.sign(raw, SECRET)}
    target = f"http://shop.example{PATH}?from=proxy".encode()
    assert http.post(PATH, content=raw, headers=headers, extensions={"target": target}).status_code == 200
    handled(db, name)


# 413 ----------------------------------------------------------------------------------------------------------------

LARGE = 20_000_000


def speak(base: str, head: str, chunked: bool) -> tuple[int, int]:
    """Send a 20 MB body as far as the server takes it: the answer's status, and the bytes that were sent."""
    at = urlsplit(base)
    part = b"x" * 50_000
    framed = b"%x\r\n%s\r\n" % (len(part), part) if chunked else part
    sent, answer = 0, b""
    with socket.create_connection((str(at.hostname), at.port or 80), timeout=30) as sock:
        sock.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        try:
            while sent < LARGE:
                sock.sendall(framed)
                sent += len(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while chunk := sock.recv(65536):  # until the server has closed
                answer += chunk
        except ConnectionResetError:
            pass
    found = re.match(rb"HTTP/1.1 (\d+)", answer)
    return int(found[1]) if found else 0, sent


@pytest.mark.usefixtures("_nothing_is_stored")
def test_a_20_mb_body_is_refused_before_it_is_there_and_the_connection_is_closed(served: tuple[Child, str]) -> None:
    at = urlsplit(served[1])
    with socket.create_connection((str(at.hostname), at.port or 80), timeout=30) as sock:
        sock.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGE}\r\n\r\n".encode())
        answer = b""
        while chunk := sock.recv(65536):  # not one byte of the body was sent
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"limit" in answer


@pytest.mark.usefixtures("_nothing_is_stored")
def test_a_client_that_sends_on_behind_a_413_does_not_lose_it(served: tuple[Child, str]) -> None:
    at = urlsplit(served[1])
    with socket.create_connection((str(at.hostname), at.port or 80), timeout=30) as sock:
        sock.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000001\r\n\r\n".encode())
        assert select.select([sock], [], [], 30)[0]  # the answer is here, and not read yet
        for _ in range(2):  # to a closed connection: a reset, at which the kernel forgets the answer
            sock.sendall(b"x" * 500_000)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.usefixtures("_nothing_is_stored")
@pytest.mark.parametrize(
    ("head", "chunked"), [(f"Content-Length: {LARGE}", False), ("Transfer-Encoding: chunked", True)],
    ids=["with a length", "chunked"],
)  # fmt: skip
def test_a_20_mb_body_that_is_sent_all_the_same_is_cut_off(served: tuple[Child, str], head: str, chunked: bool) -> None:
    code, sent = speak(served[1], head, chunked)
    assert code in {413, 400, 0}  # 400: it is not signed; 0: the reset came before the answer was read
    assert sent < LARGE


def test_behind_a_large_body_the_server_is_as_before(http: httpx.Client, db: Db, name: str) -> None:
    assert post(http, body(name, x="y" * 900_000)).status_code == 200
    handled(db, name)
    large = body(name + "_large", x="y" * 1_000_001)
    assert says(post(http, large), 413)
    assert status(db, name + "_large") is None


# 5xx ----------------------------------------------------------------------------------------------------------------


def test_without_the_database_it_is_a_503_and_with_it_200_again(start: Start, url: str, db: Db, name: str) -> None:
    with proxy(url) as network:
        _, base = serve(start, database=network.url)
        with httpx.Client(base_url=base, timeout=60) as http:
            assert post(http, body(name)).status_code == 200
            handled(db, name)
            network.down()
            later = body(name + "_later")
            reason = says(post(http, later), 503)
            assert "could not be recorded" in reason
            assert status(db, name + "_later") is None
            network.up()
            wait_until(lambda: post(http, later).status_code == 200, "the database is there again", 60)
            handled(db, name + "_later")
            assert effects(db, name + "_later") == 1


def test_a_database_that_was_never_migrated_is_no_200(start: Start, empty_database: str, name: str) -> None:
    server = start(*PGONCE, "serve", "--port", "0", database=empty_database, PGONCE_WEBHOOK_SECRET=SECRET)
    wait_until(lambda: server.process.poll() is not None or "running on" in server.said, "it is up, or has ended")
    if server.process.poll() is None:
        with httpx.Client(base_url=server.until(r"running on (http://[\d.:]+)")[1], timeout=30) as http:
            assert "pgonce migrate" in says(post(http, body(name)), 503)
    else:
        assert server.process.returncode not in {0, 75}
        assert "pgonce migrate" in server.said
    assert "Traceback" not in server.said


# What is not said ---------------------------------------------------------------------------------------------------


def test_a_handler_s_error_is_in_its_row_and_neither_in_the_answer_nor_in_the_log(
    start: Start, db: Db, name: str
) -> None:
    server, base = serve(start)
    with httpx.Client(base_url=base, timeout=30) as http:
        answer = post(http, body(name, "boom", card=CARD))
        assert answer.status_code in {200, 500}
        assert CARD not in answer.text
        wait_until(lambda: status(db, name) == "failed", "the handler has failed")
        for signature in (None, "nonsense", stripe.sign(b"", OLD_SECRET)):
            post(http, body(name, card=CARD), signature)
    [(message,)] = db.execute("select error_message from webhook_events where stripe_event_id = %s", [name]).fetchall()
    assert f"RuntimeError: {CARD}" in message
    assert effects(db, name) == 0
    server.process.terminate()
    server.end()
    for secret in (CARD, SECRET, OLD_SECRET, "Traceback"):
        assert secret not in server.said
    # not for ever, because the worker of the next test would try again
    db.execute("update webhook_events set next_attempt_at = null where stripe_event_id = %s", [name])
