"""A job, a worker and recorded events over a failover by Patroni with etcd, on the loopback.

    python -m tests.faults.jobs.patroni_failover [--asynchronous]

Needs Debian's packages: apt-get install patroni etcd-server postgresql-15. The leader and its Patroni are killed with
kill -9 while a job commits transactions, events are recorded and a worker handles them. Prints the outage, and what was
confirmed, recorded and done.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

import pgonce
from pgonce.core import database
from pgonce.core.execute import call
from pgonce.core.migrate import migrate
from pgonce.errors import DatabaseUnavailable, PgonceError
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import queue_webhooks
from pgonce.webhooks.worker import Worker

HOST = "127.0.0.1"
BINARIES = "/usr/lib/postgresql/15/bin"
NODES = ("one", "two")


def missing() -> str | None:
    """What is not installed; None: everything is there."""
    needed = {"patroni": "patroni", "etcd": "etcd-server", f"{BINARIES}/initdb": "postgresql-15"}
    packages = [package for program, package in needed.items() if shutil.which(program) is None]
    return f"not installed: apt-get install {' '.join(packages)}" if packages else None


def free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


class Cluster:
    """Two nodes of PostgreSQL under Patroni, and one etcd."""

    def __init__(self, home: Path, stack: ExitStack, *, synchronous: bool) -> None:
        self._home = home
        self._user = pwd.getpwnam("postgres").pw_uid if os.getuid() == 0 else os.getuid()
        os.chown(home, self._user, -1)
        self._ports = {name: free_port() for name in NODES}
        self._patroni: dict[str, subprocess.Popen[bytes]] = {}
        client, peer = free_port(), free_port()
        self._spawn(
            stack, "etcd", "etcd", "--data-dir", f"{home}/etcd", "--enable-v2=true",
            "--listen-client-urls", f"http://{HOST}:{client}", "--advertise-client-urls", f"http://{HOST}:{client}",
            "--listen-peer-urls", f"http://{HOST}:{peer}",
        )  # fmt: skip
        for name in NODES:
            file = home / f"{name}.json"  # YAML includes JSON
            file.write_text(json.dumps(self._settings(name, client, synchronous=synchronous)))
            self._patroni[name] = self._spawn(stack, name, "patroni", str(file))
            self.wait(lambda name=name: self._answers(name), f"node {name} is up")

    def _settings(self, name: str, etcd: int, *, synchronous: bool) -> dict[str, Any]:
        user = {"username": "postgres", "password": "loopback"}
        return {
            "scope": "shop",
            "name": name,
            "restapi": {"listen": f"{HOST}:{free_port()}"},
            "etcd3": {"host": f"{HOST}:{etcd}"},
            "bootstrap": {
                "dcs": {
                    "ttl": 20,
                    "loop_wait": 3,
                    "retry_timeout": 5,
                    "maximum_lag_on_failover": 1 << 30,
                    "synchronous_mode": synchronous,
                    "postgresql": {"parameters": {"shared_buffers": "32MB", "max_connections": 60}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"{HOST}:{self._ports[name]}",
                "connect_address": f"{HOST}:{self._ports[name]}",
                "data_dir": f"{self._home}/{name}",
                "bin_dir": BINARIES,
                "pgpass": f"{self._home}/{name}.pgpass",
                "pg_hba": [f"host all all {HOST}/32 trust", f"host replication all {HOST}/32 trust"],
                "parameters": {"unix_socket_directories": str(self._home)},
                "authentication": {"superuser": user, "replication": user},
            },
        }

    @property
    def url(self) -> str:
        """Both nodes; the one that can be written to is used."""
        hosts = ",".join(f"{HOST}:{port}" for port in self._ports.values())
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def _spawn(self, stack: ExitStack, name: str, *command: str) -> subprocess.Popen[bytes]:
        log = (self._home / f"{name}.log").open("wb")
        environment = {"PATH": f"/usr/bin:/bin:{BINARIES}", "HOME": str(self._home), "LC_ALL": "C.UTF-8"}
        process = subprocess.Popen(
            command, user=self._user, env=environment, cwd=self._home, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip

        def end() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            log.close()

        stack.callback(end)
        return process

    def connect(self, name: str) -> psycopg.Connection[Any]:
        """A session on one node."""
        url = f"postgresql://postgres@{HOST}:{self._ports[name]}/postgres"
        return psycopg.connect(url, autocommit=True, connect_timeout=2)

    def _answers(self, name: str) -> bool:
        with suppress(psycopg.Error), self.connect(name):
            return True
        return False

    def leader(self) -> str:
        """The node that can be written to."""
        for name in NODES:
            with suppress(psycopg.Error), self.connect(name) as conn:
                if conn.execute("select pg_is_in_recovery()").fetchone() == (False,):
                    return name
        return ""

    def is_replicating(self, *, synchronous: bool) -> bool:
        """Whether the standby receives the leader's commits, and, if asked for, whether the leader waits for it."""
        with suppress(psycopg.Error), self.connect(self.leader()) as conn:
            states = conn.execute("select sync_state from pg_stat_replication where state = 'streaming'").fetchall()
            return states == [("sync" if synchronous else "async",)]
        return False

    def kill_leader(self) -> None:
        """kill -9 of the leader's Patroni and of all processes of its PostgreSQL."""
        name = self.leader()
        self._patroni[name].kill()
        pid = int((self._home / name / "postmaster.pid").read_text().split()[0])
        os.killpg(os.getpgid(pid), signal.SIGKILL)

    @staticmethod
    def wait(condition: Any, what: str, seconds: float = 120) -> None:
        """Until ``condition`` holds."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(what)
            time.sleep(0.2)


@contextmanager
def cluster(*, synchronous: bool) -> Iterator[Cluster]:
    """A running cluster, which is removed after the block."""
    home = Path(tempfile.mkdtemp(prefix="pgonce-patroni-"))
    try:
        with ExitStack() as stack:
            yield Cluster(home, stack, synchronous=synchronous)
    finally:
        shutil.rmtree(home, ignore_errors=True)


class Load:
    """Records events, and runs a job that commits, until it is stopped; both go on over the failover."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.confirmed: list[str] = []
        self.commits: list[float] = []
        self.job = ""
        self.threads = [threading.Thread(target=work) for work in (self._record, self._run_job)]
        for thread in self.threads:
            thread.start()

    def _record(self) -> None:
        with database.open_pool(self._url, 2) as pool:
            number = 0
            while not self._stop.is_set():
                bodies = [self._body(number + each) for each in range(10)]
                try:
                    call(pool, queue_webhooks(bodies), "public")
                except PgonceError:
                    time.sleep(0.1)  # Stripe delivers it again: so do we
                    continue
                self.confirmed += [body.id for body in bodies]
                number += 10

    @staticmethod
    def _body(number: int) -> stripe.Body:
        content = {"id": f"evt_{number:08}", "object": "event", "type": "invoice.paid"}
        return stripe.read(json.dumps(content | {"data": {"object": {"id": "in_1"}}}).encode())

    def _run_job(self) -> None:
        with database.open_pool(self._url, 2) as pool:
            try:
                with pgonce.Jobs(pool).run("export", window="2 minutes") as run:
                    assert run is not None
                    while not self._stop.is_set():
                        self._write(run)
                self.job = f"succeeded, {run.rows_processed} processed"
            except PgonceError as error:
                self.job = f"{type(error).__name__}: {error}"

    def _write(self, run: pgonce.Run) -> None:
        try:
            with run.transaction() as tx:
                tx.execute("insert into exported (at) values (clock_timestamp())")
        except DatabaseUnavailable:
            time.sleep(0.1)
            return
        run.processed()
        self.commits.append(time.monotonic())
        time.sleep(0.005)

    def stop(self) -> None:
        """Both end."""
        self._stop.set()
        for thread in self.threads:
            thread.join()


def handlers() -> pgonce.App:
    app = pgonce.App()

    @app.webhook("invoice.paid")
    def handle(event: pgonce.Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into effects values (%s)", [event.id])

    return app


def measure(*, synchronous: bool) -> list[str]:
    """What happened, in lines."""
    with cluster(synchronous=synchronous) as nodes:
        nodes.wait(lambda: nodes.is_replicating(synchronous=synchronous), "the standby replicates")
        migrate(nodes.url)
        with psycopg.connect(nodes.url, autocommit=True) as conn:
            conn.execute("create table effects (event text)")
            conn.execute("create table exported (id bigint generated always as identity, at timestamptz)")
        with Worker(handlers(), nodes.url, poll=0.2):
            load = Load(nodes.url)
            nodes.wait(lambda: len(load.confirmed) > 1000 and len(load.commits) > 200, "the load has begun")
            killed = time.monotonic()
            nodes.kill_leader()
            nodes.wait(lambda: load.job or load.commits[-1] > killed + 5, "the job goes on, or has ended")
            known = len(load.confirmed)
            nodes.wait(lambda: len(load.confirmed) > known + 500, "events are recorded again")
            load.stop()
            with psycopg.connect(nodes.url, autocommit=True) as conn:
                waiting = "select count(*) from webhook_events where next_attempt_at is not null"
                nodes.wait(lambda: conn.execute(waiting).fetchone() == (0,), "all events are handled")
        with psycopg.connect(nodes.url, autocommit=True) as conn:
            [[rows]] = conn.execute("select count(*) from webhook_events").fetchall()
            [[effects, distinct]] = conn.execute("select count(*), count(distinct event) from effects").fetchall()
            [[exported]] = conn.execute("select count(*) from exported").fetchall()
            lost = conn.execute(
                "select count(*) from unnest(%s::text[]) c (event) where not exists"
                " (select from webhook_events where stripe_event_id = c.event)", [load.confirmed],
            ).fetchone()  # fmt: skip
            run = conn.execute("select status, rows_processed, transactions from cron_job_runs").fetchall()
        after = [at for at in load.commits if at > killed + 1]
        return [
            f"standby: {'synchronous' if synchronous else 'asynchronous'}",
            f"outage for the job: {after[0] - killed:.0f} s" if after else "the job did not commit again",
            f"events confirmed: {len(load.confirmed):,}, of these lost: {lost[0] if lost else '?'}",
            f"events in the table: {rows:,}, effects: {effects:,}, of distinct events: {distinct:,}",
            f"job: {load.job}; its row: {run}; rows that it wrote: {exported:,}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description="A failover by Patroni with etcd.")
    parser.add_argument("--asynchronous", action="store_true")
    options = parser.parse_args()
    if why := missing():
        print(f"skipped: {why}")  # noqa: T201
        sys.exit(0)
    logging.disable()  # what the pools say while there is no leader
    print("\n".join(measure(synchronous=not options.asynchronous)))  # noqa: T201


if __name__ == "__main__":
    main()
