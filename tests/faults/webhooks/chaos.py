"""Deliveries while workers are killed and PostgreSQL crashes. Every distinct event must have exactly one effect.

The small version is in the suite (test_chaos.py); the full one is:

    python -m tests.faults.webhooks.chaos --deliveries 10000
A real server that is crashed and recovers, real ``pgonce serve`` and ``pgonce worker`` processes, real HTTP, and a
Stripe that delivers again whatever got no 2xx.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg

from pgonce.core import embedded
from pgonce.core import migrate as schema
from pgonce.webhooks import stripe
from tests.edge.command import SECRET, Running, running

APP = """
import pgonce
app = pgonce.App()
@app.webhook("customer.*")
def customer(event, tx):
    tx.execute("insert into effects (event) values (%s)", [event.id])
"""
REPORT = """
select count(*) filter (where status = 'succeeded'), count(*) filter (where status = 'processing'),
       count(*) filter (where status = 'failed'), count(*) from webhook_events
"""
DUPLICATES = 0.3
CLIENTS = 8


@dataclass
class Outcome:
    """The state after everything has ended."""

    deliveries: int
    distinct: int
    effects: int = 0
    events_with_effect: int = 0
    succeeded: int = 0
    processing: int = 0
    failed: int = 0
    rows: int = 0
    kills: int = 0
    crashes: int = 0
    refused: int = 0
    """Deliveries that got no 2xx, and were delivered again."""

    @property
    def exactly_once(self) -> bool:
        """Whether there is one effect for each distinct event, and no event is unfinished, lost or a dead letter."""
        counts = {self.effects, self.events_with_effect, self.succeeded, self.rows}
        return counts == {self.distinct} and not self.processing and not self.failed


@dataclass
class Chaos:
    """One run; ``expire`` ends a killed worker's lease by SQL instead of by waiting 30 s for it."""

    deliveries: int
    crashes: int = 3
    kill_every: float = 1.0
    expire: bool = False
    seed: int = field(default_factory=lambda: random.randrange(10**6))

    def run(self) -> Outcome:
        with ExitStack() as stack:
            home = Path(tempfile.mkdtemp(prefix="pgonce-chaos-"))
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            server = stack.enter_context(embedded.start(home / "data"))
            self.server, self.home = server, home
            (home / "shop.py").write_text(APP)
            schema.migrate(server.url)
            self._sql("create table effects (event text not null)")  # no unique key, so that a second effect is visible
            serve = stack.enter_context(self._command("serve", "--port", "0", "--no-worker"))
            self.address = f"http://127.0.0.1:{serve.port}/webhooks/stripe"
            self.client = stack.enter_context(httpx.Client(timeout=30))
            return self._storm()

    def _command(self, *arguments: str) -> Any:
        # one worker more or less is all the same to the others: they know each other by the table only
        return running(self.server.url, *arguments, "--app", "shop", cwd=self.home)

    def _storm(self) -> Outcome:
        dice = random.Random(self.seed)
        bodies: list[bytes] = []
        for nr in range(self.deliveries):
            again = bodies and dice.random() < DUPLICATES
            bodies.append(dice.choice(bodies) if again else _body(nr))
        outcome = Outcome(len(bodies), len(set(bodies)))
        delivered = 0
        lock = threading.Lock()
        settled = threading.Event()

        def deliver(body: bytes) -> None:
            nonlocal delivered
            refused = self._deliver(body)
            with lock:
                delivered += 1
                outcome.refused += refused

        def is_next(nr: int) -> bool:
            # also after a kill: on a busy machine everything was delivered while the second worker was still starting
            return delivered >= len(bodies) * nr / (self.crashes + 1) and outcome.kills >= nr - 1

        def crash() -> None:
            for nr in range(1, self.crashes + 1):
                _wait(partial(is_next, nr), 600)
                self._crash()
                outcome.crashes += 1

        def is_up(worker: Running) -> bool:
            return worker.started or worker.ended or settled.is_set()

        def kill() -> None:
            while not settled.is_set():
                with self._command("worker", "--concurrency", "2") as worker:
                    # a process that connects in the middle of a crash ends with an error; then start the next one
                    _wait(partial(is_up, worker), 60)
                    settled.wait(0 if worker.ended else self.kill_every)
                    outcome.kills += not worker.ended  # the end of the block is a SIGKILL

        killer, crasher = threading.Thread(target=kill), threading.Thread(target=crash)
        killer.start()
        crasher.start()
        try:
            with ThreadPoolExecutor(CLIENTS) as clients:
                list(clients.map(deliver, bodies))
            crasher.join()
            _wait(self._is_settled, 600)
        finally:
            settled.set()
            killer.join()
        return self._count(outcome)

    def _deliver(self, body: bytes) -> int:
        """Deliver as Stripe does, until the answer is 2xx; returns how many answers were not."""
        for attempt in range(1000):
            with suppress(httpx.HTTPError):
                headers = {"Stripe-Signature": stripe.sign(body, SECRET)}
                if self.client.post(self.address, content=body, headers=headers).is_success:
                    return attempt
            time.sleep(min(0.05 * 2**attempt, 1))  # Stripe's backoff, but shorter
        raise AssertionError("a delivery was refused a thousand times")

    def _crash(self) -> None:
        """``pg_ctl restart -m immediate``, as the cluster's owner: all sessions die, the server recovers."""
        pgdata = self.server.data_dir / "pg"
        owner = pgdata.stat()
        # the address of its socket is an option of the running server; -o '' would lose it
        command: list[str | Path] = [
            self.server.bin_dir / "pg_ctl", "restart", "-s", "-w", "-m", "immediate", "-D", pgdata,
            "-l", pgdata / "postgres.log",
        ]  # fmt: skip
        who: dict[str, Any] = (
            {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        subprocess.run(
            command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=pgdata,
            **who,
        )  # fmt: skip

    def _is_settled(self) -> bool:
        if self.expire:
            # only if no session is alive: the open transaction of a live worker has locked its rows
            self._sql(
                "update webhook_events set lease_expires_at = clock_timestamp() where id in ("
                "select id from webhook_events where lease is not null and status = 'processing'"
                " for update skip locked)"
            )
            self._sql("update webhook_events set next_attempt_at = clock_timestamp() where status = 'failed'")
        time.sleep(0.1)
        return self._sql("select not exists (select from webhook_events where next_attempt_at is not null)") == (True,)

    def _count(self, outcome: Outcome) -> Outcome:
        counted = self._sql(REPORT)
        outcome.succeeded, outcome.processing, outcome.failed, outcome.rows = counted
        outcome.effects, outcome.events_with_effect = self._sql("select count(*), count(distinct event) from effects")
        return outcome

    def _sql(self, statement: str) -> Any:
        with psycopg.connect(self.server.url, autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchone() if cursor.description else None


def _body(nr: int) -> bytes:
    content = {
        "id": f"evt_{nr:08}",
        "object": "event",
        "type": "customer.updated",
        "data": {"object": {"id": f"cus_{nr % 50}"}},
    }
    return json.dumps(content).encode()


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain")
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.webhooks.chaos")
    parser.add_argument("--deliveries", type=int, default=10_000)
    parser.add_argument("--expire", action="store_true", help="do not wait for the leases of killed workers")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)  # noqa: T201 -- run by hand it says what came of it
    started = time.monotonic()
    outcome = Chaos(arguments.deliveries, expire=arguments.expire, seed=arguments.seed).run()
    print(f"{outcome}\nexactly once: {outcome.exactly_once}, in {time.monotonic() - started:.0f} s")  # noqa: T201
    raise SystemExit(not outcome.exactly_once)


if __name__ == "__main__":
    main()
