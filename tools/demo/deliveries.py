"""Part 1: deliveries over many HTTP connections, to a server that is killed meanwhile."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from random import Random

from pgonce.webhooks import stripe
from tools.demo import events
from tools.demo.children import PATIENCE, DemoFailed, until
from tools.demo.database import connect, value
from tools.demo.events import Event
from tools.demo.report import Webhooks
from tools.demo.screen import Screen
from tools.demo.server import HOST, PATH, SECRET, Server, end_leases, unsettled

CONNECTIONS = 16
ATTEMPTS = 8
"""How often a delivery is made at most. Stripe makes about as many in its three days."""
REQUEST = 20.0
"""Seconds until an answer counts as none; Stripe waits about as long."""


def run(server: Server, database_url: str, count: int, random: Random, screen: Screen) -> Webhooks:
    """Send ``count`` deliveries, kill the server (SIGKILL) meanwhile, and count deliveries, events and effects."""
    begun = screen.seconds
    duplicates = count // 3
    distinct = events.make(count - duplicates, random)
    deliveries = events.shuffled(distinct, duplicates, random)
    screen.heading(
        f"1. Webhooks: {count:,} signed deliveries, {duplicates:,} duplicates, shuffled, {CONNECTIONS} connections"
    )
    server.start()
    screen.say(f"started `pgonce serve`, pid {server.child.pid}, at {HOST}:{server.port}")
    with screen.bar("deliveries", count) as made:
        first = _Round(server, deliveries, made)
        _kill_in_the_middle(first, server, database_url, random.randint(count * 2 // 5, count * 3 // 5), screen)
        first.finish()
    unanswered = _deliver_again(first, server, screen)
    with connect(database_url) as conn:
        if left := unsettled(conn):
            screen.say(f"every delivery is answered; {left:,} recorded events are yet to be handled")
        try:
            until(lambda: not unsettled(conn), "every recorded event is handled")
        except DemoFailed as error:
            screen.say(str(error))  # the figures show what is missing
        checkouts = [each.id for each in distinct if each.type == events.HANDLED]
        effects = Counter(row[0] for row in conn.execute("select stripe_event_id from access_grants"))
        counted = Webhooks(
            deliveries=count,
            events=len(distinct),
            checkouts=len(checkouts),
            recorded=value(conn, "select count(*) from webhook_events"),
            settled=value(conn, "select count(*) from webhook_events where status in ('succeeded', 'ignored')"),
            effects=effects.total(),
            doubled=sum(times > 1 for times in effects.values()),
            lost=len(set(checkouts) - set(effects)),
            unanswered=len(unanswered),
            seconds=screen.seconds - begun,
        )
    screen.say(f"{counted.settled:,} events are handled; access_grants has {counted.effects:,} rows")
    return counted


def _kill_in_the_middle(first: _Round, server: Server, database_url: str, kill_at: int, screen: Screen) -> None:
    first.start(kill_at, server.child.kill)
    dead = server.child
    until(lambda: first.killed.is_set() or dead.exit_code not in {None, -signal.SIGKILL}, f"delivery {kill_at:,}")
    if not first.killed.is_set():
        raise dead.failed()
    screen.say(f"killed pid {dead.pid} with -9 at delivery {kill_at:,}, with {first.open_at_kill} requests open")
    held = end_leases(database_url)
    screen.say(f"events in its hands: {held}; their leases end now, to save the wait")
    server.start()
    screen.say(f"started it again, pid {server.child.pid}")
    first.up.set()


def _deliver_again(last: _Round, server: Server, screen: Screen) -> list[Event]:
    """Send again what got no 2xx, with a new signature, as Stripe does: after tenths of a second, not hours."""
    unanswered = last.finish()
    for attempt in range(2, ATTEMPTS + 1):
        if not unanswered:
            break
        reasons = ", ".join(f"{number:,} × {reason}" for reason, number in sorted(last.reasons.items()))
        screen.say(f"no 2xx for {len(unanswered):,} deliveries ({reasons}): delivering them again")
        last = _Round(server, unanswered)
        last.up.set()
        last.start()
        unanswered = last.finish()
        if unanswered:
            time.sleep(0.1 * 2 ** (attempt - 2))
    return unanswered


class _Round:
    """One delivery of each event, sent by ``CONNECTIONS`` threads, each with a connection of its own."""

    def __init__(
        self, server: Server, deliveries: Sequence[Event], made: Callable[[int], None] = lambda _: None
    ) -> None:
        self.killed = threading.Event()
        self.up = threading.Event()
        """Set when the server is up again after the kill: until then a connection that was cut off waits."""
        self.open_at_kill = 0
        self.reasons: Counter[str] = Counter()
        """Why deliveries count as failed: the status, or that there was no answer."""
        self._server = server
        self._deliveries = len(deliveries)
        self._left = deque(deliveries)
        self._made = made
        self._unanswered: list[Event] = []
        self._lock = threading.Lock()
        self._sent = 0
        self._open = 0
        self._kill_at = 0
        self._kill: Callable[[], None] = lambda: None
        # daemon threads: after an error or Ctrl-C in the main thread, the demo does not wait for answers
        self._threads = [threading.Thread(target=self._deliver, daemon=True) for _ in range(CONNECTIONS)]

    @property
    def _ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def start(self, kill_at: int = 0, kill: Callable[[], None] = lambda: None) -> None:
        """Begin to send. The thread that sends request number ``kill_at`` calls ``kill`` after it."""
        self._kill_at, self._kill = kill_at, kill
        for thread in self._threads:
            thread.start()

    def finish(self) -> list[Event]:
        """Wait until all are sent, and return the deliveries that got no 2xx."""
        child = self._server.child
        until(lambda: self._ended or child.exit_code is not None, "all deliveries are made", 2 * PATIENCE)
        if child.exit_code is not None:
            raise child.failed()
        return self._unanswered

    def _deliver(self) -> None:
        connection = HTTPConnection(HOST, self._server.port, timeout=REQUEST)
        while self._left:
            try:
                event = self._left.popleft()
            except IndexError:  # another thread took the last one
                break
            answer = self._answer(connection, event)
            self._made(self._deliveries - len(self._left))
            if not answer.startswith("2"):
                with self._lock:
                    self._unanswered.append(event)
                    self.reasons[answer] += 1
        connection.close()

    def _answer(self, connection: HTTPConnection, event: Event) -> str:
        headers = {"Content-Type": "application/json", "Stripe-Signature": stripe.sign(event.body, SECRET)}
        with self._lock:
            self._open += 1
        try:
            connection.request("POST", PATH, event.body, headers)
            self._count_sent()
            response = connection.getresponse()
            response.read()
            return "409 busy" if response.status == 409 else str(response.status)
        except (OSError, HTTPException):
            connection.close()  # the next request opens it again
            self.up.wait(PATIENCE)
            return "no answer"
        finally:
            with self._lock:
                self._open -= 1

    def _count_sent(self) -> None:
        with self._lock:
            self._sent += 1
            if self._sent != self._kill_at:
                return
            self.open_at_kill = self._open
        self._kill()
        self.killed.set()
