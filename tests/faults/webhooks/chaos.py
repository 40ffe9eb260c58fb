"""Deliveries while workers are killed and PostgreSQL crashes: every distinct event has exactly one effect.

Two applications share a hostile database, whose settings all differ from PostgreSQL's. Their handlers choose the
tenant's schema, one with SET LOCAL and one with SET, and one attempt in twelve fails. Meanwhile failed events are
replayed. Every effect must be in the schema of its event's tenant.

The small version is in the suite (test_chaos.py); the full one prints its ledger:

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
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg

from pgonce.core import migrate as schema
from pgonce.webhooks import stripe
from tests import clusters
from tests.edge.command import SECRET, Running, running

SHOP = """
import random
import pgonce
app = pgonce.App()

def fail_sometimes():
    if random.random() < 1 / 12:
        raise RuntimeError("one attempt in twelve")

@app.webhook("customer.*")
def customer(event, tx):
    tx.execute(f"set local search_path = {event.account}")
    tx.execute("insert into effects (event) values (%s)", [event.id])
    fail_sometimes()
"""
BILLING = """
import psycopg
import pgonce
from psycopg.types.string import TextLoader
from shop import fail_sometimes
psycopg.adapters.register_loader("uuid", TextLoader)
app = pgonce.App()

@app.webhook("invoice.*", ordered=True)
def invoice(event, tx):
    tx.row_factory = psycopg.rows.dict_row
    tx.execute("set search_path = " + event.account)
    tx.execute("create temp table staging on commit drop as select %s::text as event", [event.id])
    tx.execute("insert into effects (event) select event from staging")
    fail_sometimes()
"""
APPS = {"shop": SHOP, "billing": BILLING}
TENANTS = ("acct_a", "acct_b", "acct_c")
HOSTILE = {
    "default_transaction_isolation": "repeatable read", "datestyle": "German, DMY", "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu", "bytea_output": "escape", "array_nulls": "off", "transform_null_equals": "on",
    "standard_conforming_strings": "off", "extra_float_digits": "-15", "search_path": "nowhere",
    "plan_cache_mode": "force_custom_plan", "lock_timeout": "20s", "client_encoding": "LATIN1",
}  # fmt: skip
USUAL = r"-c default_transaction_isolation=read\ committed"
"""For the statements of this script."""
STATES = """
select count(*) filter (where status = 'succeeded'), count(*) filter (where status = 'processing'),
       count(*) filter (where status = 'failed'), count(*) from public.webhook_events
"""
HISTORY = """
select count(*) filter (where what = 'failed'), count(*) filter (where what = 'lost'),
       count(*) filter (where what = 'replayed') from public.pgonce_webhook_attempts
"""
OF_TENANT = """
select count(*), count(distinct e.event), count(*) filter (where w.account <> '{0}')
from {0}.effects e join public.webhook_events w on w.stripe_event_id = e.event
"""
FAILED = """
with failed as (select array_agg(stripe_event_id) as ids, array_agg(status) as statuses, array_agg(lease) as leases
                from public.webhook_events where status = 'failed')
select count(r) from failed, public.pgonce_replay_webhooks(ids, statuses, leases) r
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
    in_another_tenants_schema: int = 0
    succeeded: int = 0
    processing: int = 0
    failed: int = 0
    rows: int = 0
    failed_attempts: int = 0
    lost_attempts: int = 0
    replays: int = 0
    kills: int = 0
    crashes: int = 0
    refused: int = 0
    """Deliveries that got no 2xx, and were delivered again."""

    @property
    def exactly_once(self) -> bool:
        """Whether there is one effect for each distinct event, and no event is unfinished, lost or a dead letter."""
        counts = {self.effects, self.events_with_effect, self.succeeded, self.rows}
        unfinished = self.processing + self.failed + self.in_another_tenants_schema
        return counts == {self.distinct} and not unfinished


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
            server = stack.enter_context(clusters.start(home / "data"))
            self.server, self.home = server, home
            schema.migrate(server.url)
            for name, content in APPS.items():
                (home / f"{name}.py").write_text(content)
            for tenant in TENANTS:  # no unique key, so that a second effect is visible
                self._sql(f"create schema {tenant}; create table {tenant}.effects (event text not null)")
            for name, setting in HOSTILE.items():
                self._sql(f"alter database postgres set {name} = {setting if ',' in setting else repr(setting)}")
            serve = stack.enter_context(self._command("shop", "serve", "--port", "0", "--no-worker"))
            self.address = f"http://127.0.0.1:{serve.port}/webhooks/stripe"
            self.client = stack.enter_context(httpx.Client(timeout=30))
            return self._storm()

    def _command(self, app: str, *arguments: str) -> Any:
        return running(self.server.url, *arguments, "--app", app, cwd=self.home)

    def _storm(self) -> Outcome:
        bodies = _bodies(self.deliveries, random.Random(self.seed))
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

        def kill(app: str) -> None:
            while not settled.is_set():
                with self._command(app, "worker", "--concurrency", "2") as worker:
                    # a process that connects in the middle of a crash ends with an error; then start the next one
                    _wait(partial(is_up, worker), 60)
                    settled.wait(0 if worker.ended else self.kill_every)
                    with lock:
                        outcome.kills += not worker.ended  # the end of the block is a SIGKILL

        def replay() -> None:
            while not settled.wait(0.2):
                with suppress(psycopg.Error):  # the server is being crashed
                    self._sql(FAILED)

        crasher = threading.Thread(target=crash)
        others = [threading.Thread(target=kill, args=[app]) for app in APPS] + [threading.Thread(target=replay)]
        for thread in (crasher, *others):
            thread.start()
        try:
            with ThreadPoolExecutor(CLIENTS) as clients:
                list(clients.map(deliver, bodies))
            crasher.join()
            _wait(self._is_settled, 600)
        finally:
            settled.set()
            for thread in others:
                thread.join()
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
                "update public.webhook_events set lease_expires_at = clock_timestamp() where id in ("
                "select id from public.webhook_events where lease is not null and status = 'processing'"
                " for update skip locked)"
            )
            self._sql("update public.webhook_events set next_attempt_at = clock_timestamp() where status = 'failed'")
        time.sleep(0.1)
        # a worker that started before the other app was known has ignored its events; the other app takes them back
        return self._sql(
            "select not exists (select from public.webhook_events"
            " where next_attempt_at is not null or status = 'ignored')"
        ) == (True,)

    def _count(self, outcome: Outcome) -> Outcome:
        outcome.succeeded, outcome.processing, outcome.failed, outcome.rows = self._sql(STATES)
        outcome.failed_attempts, outcome.lost_attempts, outcome.replays = self._sql(HISTORY)
        for tenant in TENANTS:
            effects, events, wrong = self._sql(OF_TENANT.format(tenant))
            outcome.effects += effects
            outcome.events_with_effect += events
            outcome.in_another_tenants_schema += wrong
        return outcome

    def _sql(self, statement: str) -> Any:
        with psycopg.connect(self.server.url, autocommit=True, options=USUAL) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchone() if cursor.description else None


def _bodies(count: int, dice: random.Random) -> list[bytes]:
    bodies: list[bytes] = []
    for nr in range(count):
        again = bodies and dice.random() < DUPLICATES
        bodies.append(dice.choice(bodies) if again else _body(nr))
    return bodies


def _body(nr: int) -> bytes:
    content = {
        "id": f"evt_{nr:08}",
        "object": "event",
        "type": "customer.updated" if nr % 2 else "invoice.paid",
        "account": TENANTS[nr % len(TENANTS)],
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
    parser.add_argument("--kill-every", type=float, default=1.0, metavar="SECONDS", help="how long a worker lives")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)  # noqa: T201 -- run by hand it says what came of it
    started = time.monotonic()
    chaos = Chaos(arguments.deliveries, 3, arguments.kill_every, arguments.expire, arguments.seed)
    outcome = chaos.run()
    for name, number in asdict(outcome).items():
        print(f"{name.replace('_', ' '):26} {number:>7,}")  # noqa: T201
    print(f"exactly once: {outcome.exactly_once}, in {time.monotonic() - started:.0f} s")  # noqa: T201
    raise SystemExit(not outcome.exactly_once)


if __name__ == "__main__":
    main()
