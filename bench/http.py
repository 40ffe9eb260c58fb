"""The receiver's requests per second and response time, measured by wrk on the same machine.

Every request is a different event, signed in advance. It is compared with the route that tutorials show: FastAPI,
Stripe's construct_event, an INSERT by psycopg. Without wrk there are no figures: apt install wrk.
"""

from __future__ import annotations

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
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

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
import sys, uvicorn
SECRET, URL, PORT = sys.argv[1:4]
{source}
uvicorn.run(app, host="127.0.0.1", port=int(PORT), log_level="warning", access_log=False, lifespan={lifespan!r})
"""


@contextmanager
def serving(name: str, url: str) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    lifespan = "off" if "without" in name else "on"
    code = SERVE.format(source=SERVERS[name], lifespan=lifespan)
    process = subprocess.Popen([sys.executable, "-c", code, SECRET, url, str(port)])
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


def run(quick: bool) -> list[Result]:
    if not shutil.which("wrk"):
        return [Result("wrk is not installed", 0, "requests/s")]
    seconds, rounds, count = (3.0, 1, 10_000) if quick else (8.0, 5, 60_000)
    names = [name for name in SERVERS if "FastAPI" not in name or importlib.util.find_spec("fastapi")]
    rates: dict[str, list[float]] = {name: [] for name in names}
    tails: list[float] = []
    with tempfile.TemporaryDirectory(prefix="pgonce-bench-") as folder:
        file = requests(count, Path(folder))
        for _ in range(rounds):
            for name in names:
                rates[name].append(measure(name, file, seconds)[0])
            half = statistics.median(rates["receiver"]) / 2
            tails.append(measure("receiver", file, seconds, rate=half)[1])
    ours, bare, *peer = (statistics.median(rates[name]) for name in names)
    tail = statistics.median(tails)
    results = [
        Result(names[1], bare, "requests/s"),
        Result("receiver", ours, "requests/s", ours / bare, ">= 0.5 x without a database", ours >= 0.5 * bare),
        Result("receiver, p99 at half of that load", tail, "ms", None, "< 50 ms", tail < 50),
    ]
    for figure in peer:
        results.append(Result(names[2], figure, "requests/s"))
        results.append(Result("receiver", ours, "requests/s", ours / figure, f">= 6 x {names[2]}", ours >= 6 * figure))
    return results
