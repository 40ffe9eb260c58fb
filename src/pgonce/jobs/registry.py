"""Which function runs as which job, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from pgonce.core.callables import is_async
from pgonce.core.interval import interval
from pgonce.core.named import get_named
from pgonce.errors import InvalidArgument
from pgonce.jobs import calls
from pgonce.jobs.cron import CatchUp, Cron, Plan, read_plan

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Job:
    """A function that runs as job ``name``."""

    name: str
    function: Callable[..., Any]
    key: str
    window: timedelta
    plan: Plan | None = None
    retries: int = 0
    backoff: timedelta = timedelta(minutes=1)
    timeout: timedelta | None = None

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return is_async(self.function)


@dataclass
class JobRegistry:
    """The jobs of an app, by name."""

    jobs: dict[str, Job] = field(default_factory=dict)
    name: str = field(default="", kw_only=True)
    """The application's, as ``--app`` has it: what tells its processes and schedules from another's."""

    def job(
        self,
        name: str,
        *,
        key: str = "",
        window: timedelta | str = calls.WINDOW,
        cron: str | None = None,
        timezone: str = "UTC",
        catch_up: CatchUp = "none",
        catch_up_window: timedelta | str = "1 day",
        jitter: timedelta | str | None = None,
        grace: timedelta | str = "5 minutes",
        retries: int = 0,
        backoff: timedelta | str = "1 minute",
        timeout: timedelta | str | None = None,
    ) -> Callable[[F], F]:
        """Register ``function(run)`` as job ``name``.

        Args:
            name: the job's name.
            key: runs with different keys may run side by side.
            window: without a heartbeat for this long a run counts as dead.
            cron: when a worker runs it: five fields, "0 6 * * *". None: only when it is called.
            timezone: where those hours are, "America/New_York".
            catch_up: of the ticks that passed while no worker ran: none (but one younger than ``grace`` is run), the
                last, or all.
            catch_up_window: ticks older than this are given up; more than a century is for ever.
            jitter: each tick is delayed by up to this, though not to the next one, so that not everything begins at the
                full hour.
            grace: a tick that has not started this long after its jitter was missed.
            retries: how often a failure is retried, each time by a new run.
            backoff: the time before the first retry; it doubles with each, up to a day.
            timeout: after this long the run has failed. An asynchronous job is cancelled; a synchronous one sees
                ``run.stop_requested`` and its transactions are refused.

        Raises:
            InvalidArgument: an argument cannot be read.
        """
        of = f"of job {name}"
        if retries < 0:
            raise InvalidArgument(f"the number of retries {of} must not be negative")
        plan = None
        if cron is not None:
            plan = read_plan(of, Cron(cron, timezone), catch_up, catch_up_window, jitter, grace)
        length, pause = interval(window, f"the window {of}"), interval(backoff, f"the backoff {of}")
        limit = None if timeout is None else interval(timeout, f"the timeout {of}")

        def register(function: F) -> F:
            if name in self.jobs or not name:
                raise InvalidArgument(f"there is a job {name!r} already" if name else "the job name must not be empty")
            self.jobs[name] = Job(name, function, key, length, plan, retries, pause, limit)
            return function

        return register

    def get_job(self, name: str) -> Job:
        """The job of this name; NotFound names those there are."""
        return get_named(self.jobs, name, "job")
