"""``pgonce serve`` in the demo: an address, and a process that can be killed and started again."""

from __future__ import annotations

import socket
from http.client import HTTPConnection, HTTPException
from typing import Any

import psycopg

from tools.demo.children import Child, Children, until
from tools.demo.database import connect, value

SECRET = "whsec_demo"  # noqa: S105 -- of an endpoint that only this machine reaches
HOST = "127.0.0.1"
PATH = "/webhooks/stripe"

_SESSIONS = """
select from pg_stat_activity
where datname = current_database() and application_name like 'pgonce%' and pid <> pg_backend_pid()
"""
_END_LEASES = """
update webhook_events set lease_expires_at = clock_timestamp()
where status = 'processing' and lease_expires_at > clock_timestamp()
"""
_UNSETTLED = """
select count(*) from webhook_events where status = 'processing' or status = 'failed' and next_attempt_at is not null
"""


class Server:
    """A receiver that keeps its port over all restarts."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._child: Child | None = None
        with socket.socket() as free:  # Stripe has one address, so every restart uses the same port
            free.bind((HOST, 0))
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        """Where Stripe would deliver."""
        return f"http://{HOST}:{self.port}{PATH}"

    @property
    def child(self) -> Child:
        """The process that was started last."""
        assert self._child is not None  # noqa: S101 -- start() comes first
        return self._child

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            DemoFailed: it ends, or never answers.
        """
        # no schedule: a tick of stats_cache, every quarter of an hour, would be one run more than part 2 has started
        address = ("--host", HOST, "--port", str(self.port))
        child = self._child = self._children.start("serve", "--no-schedule", *address)
        until(lambda: child.exit_code is not None or answers(self.port), "the server answers")
        if child.exit_code is not None:
            raise child.failed()


def answers(port: int) -> bool:
    """Whether the server on this port answers that it is healthy."""
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def end_leases(url: str) -> int:
    """End the leases that a killed server has left, and return how many there were; call it while no server runs.

    A worker takes over the events of a killed process when their leases expire, after half a minute or more. The demo
    does not wait: it ends the leases of these rows, and changes nothing else.
    """
    with connect(url) as conn:
        # first its sessions must have ended: one may still commit a claim, which the update would not see
        until(lambda: conn.execute(_SESSIONS).rowcount == 0, "the sessions of the killed server have ended")
        return conn.execute(_END_LEASES).rowcount


def unsettled(conn: psycopg.Connection[Any]) -> int:
    """How many events of the inbox are being handled, are waiting, or will be retried."""
    return int(value(conn, _UNSETTLED))
