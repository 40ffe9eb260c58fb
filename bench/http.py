"""The receiver's requests per second and response time, measured on the same machine.

Every request is a different event, signed in advance. It is compared with the route that tutorials show: FastAPI,
Stripe's construct_event, an INSERT by psycopg. wrk measures the load of many clients; without it (apt install wrk)
there is only the time of one delivery after the other on one connection that is kept open.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.request import urlopen

import psycopg

from bench.load import event
from bench.result import Result
from bench.server import new_database
from pgonce.webhooks import stripe

SECRET = "whsec_bench"
CLIENTS = 32
LUA = """
local file, nr, requests = io.open("{file}"), 0, {{}}
for line in file:lines() do
  local signature, body = line:match("^(%S+) (.*)$")
  requests[#requests + 1] = wrk.format("POST", "/webhooks/stripe",
    {{Host = "127.0.0.1", ["Stripe-Signature"] = signature, ["Content-Type"] = "application/json"}}, body)
end
function delay() return {delay} end
function request() nr = nr % #requests + 1; return requests[nr] end
"""
OURS, BARE, COMMIT = "receiver", "receiver without a database", "commit"
SERVERS = {
    "receiver": """
import pgonce
app = pgonce.receiver(pgonce.App(), secrets=[SECRET], url=URL, worker=False)
""",
    # the same bytes through the same verify and read, and the same answer, but nothing is recorded
    "receiver without a database": """
import pgonce
from pgonce.webhooks.asgi import Receiver
class Recorder:
    async def record(self, body, key): return "queued"
app = pgonce.receiver(pgonce.App(), secrets=[SECRET], url=URL, worker=False)
app._writer = Recorder()
""",
    "FastAPI + construct_event + psycopg": """
import psycopg, stripe
from fastapi import FastAPI, HTTPException, Request
app = FastAPI()
@app.post("/webhooks/stripe")
async def webhook(request: Request):
    body = await request.body()
    try:
        event = stripe.Webhook.construct_event(body, request.headers["stripe-signature"], SECRET)
    except ValueError:
        raise HTTPException(400)
    with psycopg.connect(URL) as conn:
        conn.execute("insert into webhook_events (stripe_event_id, event_type, payload) values (%s, %s, %s)"
                     " on conflict do nothing", [event.id, event.type, body.decode()])
    return {"ok": True}
""",
}
SERVE = """
import sys
SECRET, URL, PORT = sys.argv[1:4]
{source}
{run}
"""
RUN = """
import uvicorn
uvicorn.run(app, host="127.0.0.1", port=int(PORT), log_level="warning", access_log=False)
"""
RUN_OURS = """
from pgonce.webhooks import http_server
server = http_server.Server(app)
server.config.lifespan = {lifespan!r}
server.run(sockets=[http_server.listen("127.0.0.1", int(PORT))])
"""
"""As `pgonce serve` does it."""


@contextmanager
def serving(name: str, url: str) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    ours = RUN_OURS.format(lifespan="off" if "without" in name else "on")
    code = SERVE.format(source=SERVERS[name], run=RUN if "FastAPI" in name else ours)
    process = subprocess.Popen([sys.executable, "-c", code, SECRET, url, str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
            except OSError as error:
                if getattr(error, "code", None) == 404:
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} did not start") from error
                time.sleep(0.05)
            else:
                break
        yield port
    finally:
        process.kill()
        process.wait()


def requests(count: int, folder: Path) -> Path:
    """``count`` signed deliveries, one per line."""
    file = folder / "requests"
    ahead = int(time.time()) + 240  # a signature may be 300 s off in both directions: it is valid for nine minutes
    with file.open("w", encoding="utf-8") as out:
        for nr in range(count):
            body = json.dumps(event(f"evt_{nr:010}", nr))
            out.write(f"{stripe.sign(body.encode(), SECRET, ahead)} {body}\n")
    return file


def wrk(port: int, script: Path, seconds: float, clients: int = CLIENTS) -> tuple[float, float]:
    """Requests per second, and the 99th percentile in milliseconds."""
    command: list[str | Path] = [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{max(1, round(seconds))}s",
        "--latency",
        "-s",
        script,
    ]
    said = subprocess.run([*command, f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said, said
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert rate, said
    assert tail, said
    return float(rate[1]), float(tail[1]) * {"us": 0.001, "ms": 1, "s": 1000}[tail[2]]


def measure(name: str, file: Path, seconds: float, rate: float | None = None) -> tuple[float, float]:
    """At full speed, or, with ``rate``, with pauses for about that many requests per second."""
    delay = f"math.random() * {2 * 1000 * CLIENTS / rate:.0f}" if rate else "0"
    script = file.with_suffix(".lua")
    script.write_text(LUA.format(file=file, delay=delay), "utf-8")
    with new_database() as url, serving(name, url) as port:
        return wrk(port, script, seconds)


def one_after_the_other(file: Path, count: int) -> dict[str, float]:
    """The median time in milliseconds of a delivery on one kept connection, without and with a database.

    They take turns. The time of a commit that has written one row is part of the second one.
    """
    lines = [line.split(" ", 1) for line in file.read_text("utf-8").splitlines()[: 3 * count]]
    times: dict[str, list[float]] = {name: [] for name in (OURS, BARE, COMMIT)}
    with (
        new_database() as url,
        serving(OURS, url) as ours,
        serving(BARE, url) as bare,
        psycopg.connect(url, autocommit=True) as conn,
        closing(_connect(ours)) as one,
        closing(_connect(bare)) as other,
    ):
        conn.execute("create table commits (at timestamptz)")
        for signature, body in lines:
            headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
            for name, server in ((OURS, one), (BARE, other)):
                started = time.perf_counter()
                server.request("POST", "/webhooks/stripe", body.strip().encode(), headers)
                response = server.getresponse()
                assert response.status == 200, response.read()
                response.read()
                times[name].append(time.perf_counter() - started)
            started = time.perf_counter()
            conn.execute("insert into commits values (now())")
            times[COMMIT].append(time.perf_counter() - started)
    return {name: statistics.median(taken) * 1000 for name, taken in times.items()}


def _connect(port: int) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _latency(folder: Path, quick: bool) -> list[Result]:
    median = one_after_the_other(requests(3000, folder), 100 if quick else 1000)
    limit = median[BARE] + median[COMMIT]
    return [
        Result(f"{BARE}, one kept connection", median[BARE], "ms"),
        Result("an INSERT by psycopg, for its commit", median[COMMIT], "ms"),
        Result(f"{OURS}, one kept connection", median[OURS], "ms", median[OURS] / median[BARE], f"<= 1.5 x {BARE}",
               median[OURS] <= 1.5 * median[BARE]),
        Result(f"{OURS}, one kept connection", median[OURS], "ms", median[OURS] / limit, f"of {BARE} + an INSERT"),
    ]  # fmt: skip


def run(quick: bool) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="pgonce-bench-") as folder:
        latency = _latency(Path(folder), quick)
        if not shutil.which("wrk"):
            return [*latency, Result("wrk is not installed", 0, "requests/s")]
        return _throughput(Path(folder), quick) + latency


def _throughput(folder: Path, quick: bool) -> list[Result]:
    seconds, rounds, count = (3.0, 1, 10_000) if quick else (8.0, 5, 60_000)
    names = [name for name in SERVERS if "FastAPI" not in name or importlib.util.find_spec("fastapi")]
    rates: dict[str, list[float]] = {name: [] for name in names}
    tails: list[float] = []
    file = requests(count, folder)
    for _ in range(rounds):
        for name in names:
            rates[name].append(measure(name, file, seconds)[0])
        half = statistics.median(rates["receiver"]) / 2
        tails.append(measure("receiver", file, seconds, rate=half)[1])
    ours, bare, *peer = (statistics.median(rates[name]) for name in names)
    tail = statistics.median(tails)
    results = [
        Result(names[1], bare, "requests/s"),
        Result("receiver", ours, "requests/s", ours / bare, ">= 0.6 x without a database", ours >= 0.6 * bare),
        Result("receiver, p99 at half of that load", tail, "ms", None, "< 50 ms", tail < 50),
    ]
    for figure in peer:
        results.append(Result(names[2], figure, "requests/s"))
        results.append(Result("receiver", ours, "requests/s", ours / figure, f">= 6 x {names[2]}", ours >= 6 * figure))
    return results
