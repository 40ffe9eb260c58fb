"""Slow, silent, numerous or wasteful clients do not block `pgonce serve`: it receives good deliveries meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest
from psycopg import Connection

import pgonce
from pgonce.core import batcher, service
from pgonce.webhooks import asgi, endpoint, http_server, refusals, request_body, stripe
from pgonce.webhooks.calls_receive import check_inbox
from tests.conftest import wait_until
from tests.faults.proxy import proxy

SECRET = "whsec_test"
PATH = "/webhooks/stripe"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n"


class Served:
    """The server of ``pgonce serve`` in a thread of this process."""

    def __init__(self, url: str, connections: int = 1000) -> None:
        self.receiver = pgonce.receiver(pgonce.App(), secrets=[SECRET], url=url, worker=False)
        self.listening = http_server.listen("127.0.0.1", 0)
        self.address = self.listening.getsockname()
        self.stopped = threading.Event()
        self._sockets: list[socket.socket] = []
        self.server = http_server.Server(self.receiver, max_connections=connections, stop=self.stopped.set)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.server.serve(sockets=[self.listening])))
        self._thread.start()
        wait_until(lambda: self.server.started or not self._thread.is_alive(), "the server has started")

    def connect(self, sent: bytes | str = b"") -> socket.socket:
        sock = socket.create_connection(self.address, timeout=30)
        self._sockets.append(sock)
        sock.sendall(sent if isinstance(sent, bytes) else sent.encode())
        return sock

    def deliver(self, event_id: str) -> int:
        body = json.dumps({"id": event_id, "type": "pay"}).encode()
        headers = {"Stripe-Signature": stripe.sign(body, SECRET)}
        return httpx.post(f"http://127.0.0.1:{self.address[1]}{PATH}", content=body, headers=headers).status_code

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(40)
        for sock in self._sockets:
            sock.close()
        assert not self._thread.is_alive()


@pytest.fixture
def serve(database: str) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def serve(**options: int) -> Served:
        started.append(Served(database, **options))
        return started[-1]

    yield serve
    for each in started:
        each.stop()


def closed(sock: socket.socket, seconds: float = 20) -> bytes:
    """What the server sends until it closes the connection."""
    received = b""
    sock.settimeout(seconds)
    try:
        while chunk := sock.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def send_until_closed(sock: socket.socket, parts: Iterable[bytes], pause: float = 0) -> int:
    """Send the parts until the server closes the connection, and return the bytes sent.

    Fails if the server accepts all.
    """
    sent = 0
    try:
        for part in parts:
            sock.sendall(part)
            sent += len(part)
            select.select([], [], [], pause)
    except (BrokenPipeError, ConnectionResetError):
        return sent
    pytest.fail("the connection is still open")


def signed(body: bytes) -> str:
    return f"Stripe-Signature: {stripe.sign(body, SECRET)}\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", b"P", HEAD.encode(), HEAD.encode() + b"X-Long: " + b"x" * 5000],
    ids=["nothing", "a byte", "a head", "a long head"],
)
def test_a_connection_without_a_whole_head_is_closed(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)
    served = serve()
    assert closed(served.connect(sent)) == b""


def test_bytes_now_and_then_do_not_keep_a_connection_open(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)
    sock = serve().connect(HEAD)
    send_until_closed(sock, itertools.repeat(b"X: y\r\n"), pause=0.02)


def test_a_connection_that_is_silent_after_an_answer_is_closed(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)
    sock = serve().connect("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while not received.endswith(b'{"status": "ok"}'):
        received += sock.recv(65536)
    assert received.startswith(b"HTTP/1.1 200")
    sock.sendall(b"G")  # uvicorn's own timer ends with the first byte
    assert closed(sock) == b""


def test_a_body_that_does_not_come_is_answered_408(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.3)
    body = b'{"id":"evt_1","type":"pay"}'
    sock = serve().connect(f"{HEAD}{signed(body)}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
    assert closed(sock).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "header", ["", "Stripe-Signature: nonsense\r\n", "Stripe-Signature: t=1,v1=" + "0" * 64 + "\r\n"]
)
def test_the_header_and_its_time_are_checked_before_the_body_is_there(
    serve: Callable[..., Served], header: str
) -> None:
    sock = serve().connect(f"{HEAD}{header}Content-Length: 900000\r\n\r\n")
    assert closed(sock).startswith(b"HTTP/1.1 400")  # not one byte of the body was sent


def test_large_bodies_that_are_not_finished_take_a_bounded_amount_of_memory(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "LARGE_BODIES", 1_000_000)
    served = serve()
    head = f"{HEAD}{signed(b'x')}Content-Length: 1000000\r\n\r\n".encode()
    socks = [served.connect(head + b"x" * 400_000) for _ in range(4)]
    refused = [sock for sock in socks if select.select([sock], [], [], 2)[0]]
    assert len(refused) in {1, 2}
    assert closed(refused[0]).startswith(b"HTTP/1.1 503")
    assert served.deliver("evt_1") == 200
    for sock in socks:
        sock.close()
    wait_until(lambda: served.receiver._bodies.large == 0, "the bodies are forgotten")


def test_a_body_in_chunks_of_one_byte_is_cut_off(serve: Callable[..., Served]) -> None:
    served = serve()
    sock = served.connect(f"{HEAD}{signed(b'x')}Transfer-Encoding: chunked\r\n\r\n")
    assert send_until_closed(sock, itertools.repeat(b"1\r\nx\r\n" * 1000, 1000)) < 3_000_000
    assert served.deliver("evt_1") == 200


def test_a_body_in_ordinary_chunks_is_received(serve: Callable[..., Served]) -> None:
    body = json.dumps({"id": "evt_1", "type": "pay", "x": ["line\r\n"] * 5000}).encode()
    served = serve()
    parts = (body[start : start + 50] for start in range(0, len(body), 50))
    headers = {"Stripe-Signature": stripe.sign(body, SECRET)}
    url = f"http://127.0.0.1:{served.address[1]}{PATH}"
    assert httpx.post(url, content=parts, headers=headers).status_code == 200


def test_a_head_without_an_end_is_cut_off(serve: Callable[..., Served]) -> None:
    sock = serve().connect(HEAD)
    send_until_closed(sock, itertools.repeat(b"X-Long: " + b"x" * 2000 + b"\r\n", 10_000))


def test_idle_connections_do_not_keep_out_a_delivery(serve: Callable[..., Served]) -> None:
    served = serve(connections=20)
    idle = [served.connect() for _ in range(60)]
    half = [served.connect(HEAD) for _ in range(60)]
    for number in range(5):
        assert served.deliver(f"evt_{number}") == 200
    wait_until(lambda: len(served.server.server_state.connections) <= 21, "the others to be closed")
    for sock in (*idle, *half):
        sock.close()


def test_half_sent_bodies_do_not_keep_out_a_delivery(serve: Callable[..., Served]) -> None:
    served = serve(connections=20)
    for number in range(60):
        served.connect(f"{HEAD}{signed(b'x')}Content-Length: 100\r\n\r\nx")
        if number % 10 == 0:
            assert served.deliver(f"evt_{number}") == 200
    wait_until(lambda: len(served.server.server_state.connections) <= 21, "the others to be closed")


def test_a_client_that_reads_no_answer_is_cut_off(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.5)
    served = serve()
    served.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # or it takes 20,000 answers to fill it
    sock = served.connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    send_until_closed(
        sock, itertools.repeat(b"GET /healthz HTTP/1.1\r\nHost: a-host-with-a-long-name\r\n\r\n" * 100, 10_000)
    )


def test_many_readiness_probes_are_one_question(
    serve: Callable[..., Served], conn: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask() -> Any:
        asked.append("the database")
        return check_inbox()

    monkeypatch.setattr(asgi, "check_inbox", ask)
    monkeypatch.setattr(asgi, "READY_SECONDS", 600)
    url = f"http://127.0.0.1:{serve().address[1]}/readyz"

    async def probe() -> list[int]:
        async with httpx.AsyncClient(timeout=60) as client:  # on a busy machine 30 new connections take over 5 s
            return [answer.status_code for answer in await asyncio.gather(*(client.get(url) for _ in range(30)))]

    assert asyncio.run(probe()) == [200] * 30
    assert len(asked) == 1


def test_half_sent_requests_and_silent_connections_do_not_delay_the_end(serve: Callable[..., Served]) -> None:
    served = serve()
    body = b'{"id":"evt_1","type":"pay"}'
    socks = [served.connect(), served.connect(HEAD)]
    socks.append(served.connect(f"{HEAD}{signed(body)}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5]))
    wait_until(lambda: len(served.server.server_state.tasks) == 1, "the third one has begun")
    served.stop()  # fails after 40 s
    assert served.stopped.is_set()


def test_850_signatures_and_a_megabyte_cost_no_hmac(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    usual = stripe._signature

    def count(body: bytes, secret: str, timestamp: str) -> bytes:
        computed.append(len(body))
        return usual(body, secret, timestamp)

    monkeypatch.setattr(stripe, "_signature", count)
    body = b"x" * 1_000_000
    many = ",".join([f"t={int(time.time())}", *(f"v1={'0' * 64}" for _ in range(850))])
    some = ",".join([f"t={int(time.time())}", *(f"v1={'0' * 64}" for _ in range(16))])
    url = f"http://127.0.0.1:{serve().address[1]}{PATH}"
    assert httpx.post(url, content=body, headers={"Stripe-Signature": many}).status_code == 400
    assert computed == []
    assert httpx.post(url, content=body, headers={"Stripe-Signature": some}).status_code == 400
    assert computed == [len(body)]  # one secret, one HMAC


def test_two_signature_headers_are_joined(serve: Callable[..., Served]) -> None:
    body = b'{"id":"evt_1","type":"pay"}'
    good = stripe.sign(body, SECRET)
    timestamp, _, signature = good.partition(",")
    url = f"http://127.0.0.1:{serve().address[1]}{PATH}"
    for first, second in (
        (timestamp, signature),
        (signature, timestamp),
        (good, good),
        (f"{timestamp},v1={'0' * 64}", good),
    ):
        headers = [("Stripe-Signature", first), ("Stripe-Signature", second)]
        assert httpx.post(url, content=body, headers=headers).status_code == 200
    headers = [("Stripe-Signature", good), ("Stripe-Signature", stripe.sign(body, SECRET, int(time.time()) - 999))]
    assert httpx.post(url, content=body, headers=headers).status_code == 400


def test_accepted_connections_do_not_wait_for_acknowledgements() -> None:
    with http_server.listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # what asyncio looks at before it sets TCP_NODELAY

    async def option() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = http_server.listen("127.0.0.1", 0)
        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            result = await found
            writer.close()
            return result

    assert asyncio.run(option()) == 1


def test_what_is_refused_is_counted_by_reason_and_never_stored(
    serve: Callable[..., Served], conn: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "EVERY", 0.1)
    url = f"http://127.0.0.1:{serve().address[1]}{PATH}"
    body = b'{"id":"evt_1","type":"pay","card":"4242"}'
    for _ in range(5):
        assert (
            httpx.post(url, content=body, headers={"Stripe-Signature": stripe.sign(body, "whsec_x")}).status_code == 400
        )
    assert httpx.post(url, content=body).status_code == 400
    assert httpx.post(url, content=body, headers={"Stripe-Signature": stripe.sign(body, SECRET, 1)}).status_code == 400
    assert httpx.post(url, content=b"[]", headers={"Stripe-Signature": stripe.sign(b"[]", SECRET)}).status_code == 400
    signed = {"Stripe-Signature": stripe.sign(body, SECRET)}
    assert httpx.post(f"{url}/v2", content=body, headers=signed).status_code == 404
    assert httpx.post(f"{url}/v2", content=body).status_code == 404  # of a scanner
    conn.execute("alter table webhook_events add constraint none check (stripe_event_id like 'pgonce_check%')")
    assert httpx.post(url, content=body, headers=signed).status_code == 503
    listed = "select reason, deliveries from pgonce_list_refused_deliveries() order by 1"
    expected = [("body", 1), ("database", 1), ("header", 1), ("path", 1), ("signature", 5), ("time", 1)]
    wait_until(lambda: conn.execute(listed.encode()).fetchall() == expected, "the counts are written")
    assert conn.execute("select count(*) from webhook_events").fetchone() == (0,)
    columns = conn.execute("select pgonce_refused_deliveries::text from pgonce_refused_deliveries").fetchall()
    assert all("4242" not in row[0] for row in columns)


def test_a_database_that_does_not_answer_is_a_503_in_time(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "RECORD_SECONDS", 0.2)
    monkeypatch.setattr(batcher, "CANCELLED_WAIT", 0.1)
    with proxy(database) as network:
        served = Served(network.url)
        held = network.hold(b"pgonce_queue_webhooks")
        assert served.deliver("evt_1") == 503
        held.release()
        wait_until(lambda: served.deliver("evt_1") == 200, "the database answers again")
        served.stop()


def test_readiness_does_not_wait_for_an_answer_that_never_comes(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "READY_WITHIN", 0.5)
    monkeypatch.setattr(asgi, "READY_SECONDS", 0.0)
    with proxy(database) as network:
        served = Served(network.url)
        network.hold(b"pgonce_check_inbox")  # it is never released
        address = f"http://127.0.0.1:{served.address[1]}/readyz"
        assert httpx.get(address, timeout=30).status_code == 503
        wait_until(lambda: httpx.get(address, timeout=30).status_code == 200, "the next connection answers")
        served.stop()


def test_an_endpoint_that_records_ends_although_the_server_does_not_answer(
    database: str, conn: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "HANGS", 0.2)
    body = b'{"id": "evt_1", "type": "pay"}'
    signed = {"Stripe-Signature": stripe.sign(body, SECRET)}
    with proxy(database) as network:
        records = pgonce.Endpoint(pgonce.App(), secrets=[SECRET], url=network.url, queue=True)
        network.hold(b"pgonce_queue_webhooks")  # it is never released
        assert records.handle(body, signed).status == 503
        assert records.handle(body, signed).status == 200
        assert records._opened is not None
        records._opened.close()


def test_a_locked_table_is_not_ready_and_the_process_is_alive(
    serve: Callable[..., Served], conn: Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{serve().address[1]}"
    assert httpx.get(f"{url}/readyz", timeout=20).status_code == 200
    assert conn.execute("select count(*) from webhook_events").fetchone() == (0,)
    monkeypatch.setattr(asgi, "READY_SECONDS", 0)
    with conn.transaction():
        conn.execute("lock table webhook_events in share mode")
        assert httpx.get(f"{url}/readyz", timeout=20).status_code == 503
        assert httpx.get(f"{url}/healthz").status_code == 200
    conn.execute(f'alter database "{conn.info.dbname}" set default_transaction_read_only = on'.encode())
    others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    conn.execute(f"select pg_terminate_backend(pid) {others}".encode())
    assert httpx.get(f"{url}/readyz", timeout=20).status_code == 503


def test_a_ctrl_c_that_is_passed_on_once_more_cuts_off_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    server = http_server.Server(None, stop=lambda: None)
    monkeypatch.setattr(service, "REPEATED", 3600.0)
    for _ in range(2):
        server.handle_exit(signal.SIGINT, None)
    assert (server.should_exit, server.force_exit) == (True, False)
    monkeypatch.setattr(service, "REPEATED", -1.0)
    server.handle_exit(signal.SIGINT, None)
    assert server.force_exit
