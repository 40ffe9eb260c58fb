"""`make demo` as a real process, with small numbers. It also reports a guarantee that was broken."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from pgonce.core import embedded
from tools.demo.report import Act, Imports, Jobs, Webhooks

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--deliveries", "150", "--starts", "4")
PATIENCE = 600
"""Seconds to wait for the demo. It takes about 40, and several times that on a busy machine."""

# a business table in which each row is written twice, as by a handler that writes outside of the mark's transaction
SABOTAGE = """
create function double_it() returns trigger language plpgsql as $$
begin
  insert into access_grants (stripe_event_id, customer) values (new.stripe_event_id, new.customer);
  return null;
end $$;
create trigger double_it after insert on access_grants
  for each row when (pg_trigger_depth() = 0) execute function double_it();
"""

# a demo of webhooks alone: the other parts take two thirds of its time
WEBHOOKS_ONLY = """
from tools.demo import __main__ as demo
from tools.demo.report import Imports, Jobs

demo.job.run = lambda *_: Jobs(starts=1, runs=1, succeeded=1, skipped=0, overlaps=0, seconds=0)
demo.imports.run = lambda *_: Imports(
    expected=1, inserted=1, doubled=0, missing=0, counted_inserted=1, counted_skipped=0, overlaps=0, seconds=0
)
demo.demo()
"""


class Demo:
    """A running demo and what it has printed so far."""

    def __init__(self, home: Path, *options: str, program: Sequence[str] = ("-m", "tools.demo")) -> None:
        self.home = home / "data"
        self._out, self._err = home / "out", home / "err"
        # the demo must not use a database that the environment names: this one cannot even be reached
        environment = {**os.environ, "PGONCE_DATA_DIR": str(self.home), "DATABASE_URL": "postgresql://127.0.0.1:1/none"}
        environment.pop("PGONCE_DATABASE_URL", None)
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *program, *options],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def said(self) -> str:
        return self._out.read_text()

    @property
    def complained(self) -> str:
        return self._err.read_text()

    def ended(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def until_said(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert self.process.poll() is None or re.search(pattern, self.said), self.said + self.complained
            return re.search(pattern, self.said)

        return until(found, f"the demo says {pattern!r}: {self.said}", seconds)

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        with embedded.start(self.home) as server:
            url = urlunsplit(urlsplit(server.url)._replace(path="/pgonce_demo"))
            with psycopg.connect(url, autocommit=True) as conn:
                yield conn

    def figures(self) -> dict[str, list[str]]:
        """The rows of the table that the demo prints: the part of the demo, its figures, its result."""
        rows = [line.split() for line in self.said.splitlines()]
        return {row[0]: [*row[1:4], row[-1]] for row in rows if row and row[0] in {"Webhooks", "Jobs", "Imports"}}


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.01)
    return value


def listens(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname or "", address.port or 0)) == 0


def send(url: str, event_id: str) -> str:
    command = [sys.executable, "-m", "tools.demo.send", url, event_id]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    with ExitStack() as stack:
        # a shell ignores it for background jobs, and the demo would inherit that
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))

        def start(*options: str, **more: Any) -> Demo:
            started = Demo(tmp_path, *options, **more)
            stack.callback(started.process.wait, 60)
            stack.callback(started.process.terminate)
            return started

        yield start


@pytest.mark.long
def test_the_demo_keeps_its_promises_and_with_keep_leaves_a_server_that_answers(demo: Callable[..., Demo]) -> None:
    kept = demo("--keep", *SMALL)
    kept.until_said("stop it .*\n")

    assert kept.figures() == {
        "Webhooks": ["150", "100", due_of(kept.said), "kept"],
        "Jobs": ["1", "3", "0", "kept"],
        "Imports": ["62,204", "62,204", "0", "kept"],
    }
    assert len(re.findall(r"killed pid \d+ with -9", kept.said)) == 3
    assert "Every promise was kept" in kept.said

    url = kept.until_said("receives at +(.*)")[1]
    assert ("200" in send(url, "evt_twice"), "200" in send(url, "evt_twice")) == (True, True)
    with kept.database() as conn:
        settled = "select from webhook_events where stripe_event_id = 'evt_twice' and status = 'succeeded'"
        until(lambda: conn.execute(settled).rowcount, "the event is handled")
        effects = "select count(*) from access_grants where stripe_event_id = 'evt_twice'"
        assert conn.execute(effects).fetchone() == (1,)

    second = subprocess.run(
        [sys.executable, "-m", "tools.demo"],
        cwd=ROOT,
        env={**os.environ, "PGONCE_DATA_DIR": str(kept.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    assert "another demo is at work" in second.stderr

    kept.process.send_signal(signal.SIGINT)
    assert kept.ended() == 0, kept.complained
    assert not listens(url)


def due_of(said: str) -> str:
    """The number of checkouts among the events, which is random, from the line below the figures."""
    return re.findall(r"effects, (\d+) due", said)[0]


@pytest.mark.long
def test_a_doubled_effect_makes_the_demo_exit_with_1_and_say_which_promise_broke(demo: Callable[..., Demo]) -> None:
    sabotaged = demo(*SMALL, program=("-c", WEBHOOKS_ONLY))
    sabotaged.until_said("made the tables")
    with sabotaged.database() as conn:
        conn.execute(SABOTAGE)

    assert sabotaged.ended() == 1, sabotaged.complained
    verdicts = {act: figures[-1] for act, figures in sabotaged.figures().items()}
    expected = {"Webhooks": "BROKEN", "Jobs": "kept", "Imports": "kept"}
    assert verdicts == expected, sabotaged.said + sabotaged.complained
    assert re.search("BROKEN: .* events have more than one effect", sabotaged.said)
    assert "A promise BROKE" in sabotaged.said


def test_ctrl_c_ends_the_demo_and_every_process_it_has_started(demo: Callable[..., Demo]) -> None:
    interrupted = demo()
    address = interrupted.until_said(r"started `pgonce serve`, pid \d+, at (.*)")[1]
    assert listens(f"http://{address}")

    interrupted.process.send_signal(signal.SIGINT)

    assert interrupted.ended() == 130
    assert interrupted.complained.endswith("\nstopped: all that the demo had started is gone\n")
    assert "Traceback" not in interrupted.complained
    assert not listens(f"http://{address}")


WEBHOOKS = Webhooks(
    deliveries=150, events=100, checkouts=70, recorded=100, settled=100, effects=70, doubled=0, lost=0, unanswered=0,
    seconds=1,
)  # fmt: skip
JOBS = Jobs(starts=20, runs=1, succeeded=1, skipped=19, overlaps=0, seconds=1)
IMPORTS = Imports(
    expected=62204, inserted=62204, doubled=0, missing=0, counted_inserted=62204, counted_skipped=0, overlaps=0,
    seconds=1,
)  # fmt: skip


@pytest.mark.parametrize("act", [WEBHOOKS, JOBS, replace(JOBS, runs=2, succeeded=2, skipped=18), IMPORTS])
def test_figures_that_fit_break_no_promise(act: Act) -> None:
    assert act.broken() == []


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (replace(WEBHOOKS, effects=71, doubled=1), "1 events have more than one effect"),
        (replace(WEBHOOKS, effects=69, lost=1), "1 events with a handler have no effect"),
        (replace(WEBHOOKS, doubled=1, lost=1), "1 events have more than one effect"),
        (replace(WEBHOOKS, recorded=99, settled=99), "the number of recorded events is off by 1"),
        (replace(WEBHOOKS, settled=98), "2 recorded events are neither succeeded nor ignored"),
        (replace(WEBHOOKS, unanswered=3), "3 deliveries never got a 2xx"),
        (replace(JOBS, overlaps=1), "1 pairs of runs overlapped"),
        (replace(JOBS, skipped=18), "1 starts are neither a run nor a skip"),
        (replace(JOBS, succeeded=0), "1 runs did not succeed"),
        (replace(JOBS, runs=0, succeeded=0, skipped=20), "the job did not run at all"),
        (replace(IMPORTS, inserted=62205, doubled=1), "1 verses are doubled or not from the source"),
        (replace(IMPORTS, inserted=62203, missing=1), "1 verses are missing"),
        (replace(IMPORTS, counted_inserted=62203), "the counter rows_inserted is off by 1"),
        (replace(IMPORTS, counted_skipped=50), "50 verses were sent twice"),
        (replace(IMPORTS, overlaps=1), "1 pairs of runs overlapped"),
    ],
)
def test_a_figure_that_does_not_fit_breaks_the_promise(act: Act, reason: str) -> None:
    assert reason in act.broken()
