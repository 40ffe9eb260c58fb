"""The registry of jobs: name, function, schedule and options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakSet

from pgonce.core.callables import is_async
from pgonce.core.failures import ErrorHook
from pgonce.core.interval import interval
from pgonce.core.registration import (
    called,
    check_count,
    check_function,
    check_name,
    check_text,
    get_named,
    warn_if_late,
)
from pgonce.errors import InvalidArgument
from pgonce.jobs import calls
from pgonce.jobs.arguments import LONGEST_BACKOFF, read_length, read_names
from pgonce.jobs.cron import CatchUp, Cron, Every, Plan, read_plan

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
    slots: int | None = None
    """How many runs may run at the same time; None: one, without slots."""
    expect_every: timedelta | None = None
    """The job must run at least this often, by schedule or by hand."""
    expect_grace: timedelta = timedelta(minutes=5)

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return is_async(self.function)


@dataclass
class JobRegistry:
    """The jobs of an app, by name."""

    jobs: dict[str, Job] = field(default_factory=dict)
    on_error: ErrorHook | None = field(default=None, kw_only=True, repr=False, compare=False)
    """Called with what a handler or job raised, and the event or run."""
    name: str = field(default="", kw_only=True)
    """The application's name, as given by ``--app``. It separates its processes and schedules from another's."""

    schedulers: WeakSet[Any] = field(default_factory=WeakSet, init=False, repr=False, compare=False)
    """Schedulers of this process that have started with these jobs and have not stopped."""

    def job(
        self,
        name: str,
        *,
        key: str = "",
        window: timedelta | str = calls.WINDOW,
        cron: str | None = None,
        every: timedelta | str | None = None,
        timezone: str = "UTC",
        catch_up: CatchUp = "none",
        catch_up_window: timedelta | str = "1 day",
        jitter: timedelta | str | None = None,
        grace: timedelta | str = "5 minutes",
        retries: int = 0,
        backoff: timedelta | str = "1 minute",
        timeout: timedelta | str | None = None,
        slots: int | None = None,
        expect_every: timedelta | str | None = None,
        expect_grace: timedelta | str = "5 minutes",
    ) -> Callable[[F], F]:
        """Register ``function(run)`` as job ``name``. Lengths of time are text, such as "90 seconds", or a timedelta.

        Args:
            name: the job's name, unique in the app.
            key: runs with different keys may run at the same time.
            window: without a heartbeat for this long a run counts as dead.
            cron: when a worker runs it: five fields, "0 6 * * *", or @hourly, @daily, @weekly, @monthly, @yearly. None:
                only when it is started by hand.
            every: instead of ``cron``, an interval of at least a second: "90 minutes". Its ticks are the multiples of
                the interval since Monday, 3 January 2000, 00:00 UTC.
            timezone: the time zone of ``cron``, "America/New_York".
            catch_up: of the ticks that passed while no worker ran: none (but one younger than ``grace`` is run), the
                last, or all.
            catch_up_window: ticks older than this are not run; a century or more means for ever.
            jitter: each tick is delayed by up to this, but not beyond the next one, so that not all jobs start at the
                full hour.
            grace: a tick that has not started this long after its jitter counts as missed.
            retries: how often a failure is retried, each time by a new run.
            backoff: the time before the first retry, at most a day; it doubles with each retry, up to a day.
            timeout: after this long the run fails. An asynchronous job is cancelled; a synchronous one sees
                ``run.stop_requested`` and its transactions are refused.
            slots: at most this many runs at the same time, 1 to 1000. Each has its own key: key#1, key#2 and so on.
            expect_every: the job must run at least this often, by schedule or by hand; otherwise an alert says it was
                missed.
            expect_grace: how long after ``expect_every`` that alert is sent.

        Raises:
            InvalidArgument: an argument cannot be read, or does nothing without another one; or, from the decorator,
                there is a job of this name, or the function cannot be called with a run.
        """
        check_name(name, "@app.job", "the job's name", "stats_cache")
        of = f"of job {name}"
        check_text(key, f"the key {of}", 'key="eu"')
        read_names(name, key)
        check_count(retries, f"retries {of}")
        if slots is not None:
            check_count(slots, f"slots {of}", 1, calls.MOST_SLOTS)
        if cron is not None and every is not None:
            raise InvalidArgument(f"pass cron or every {of}, not both")
        scheduled = {
            "catch_up": catch_up != "none",
            "catch_up_window": catch_up_window != "1 day",
            "jitter": jitter is not None,
            "grace": grace != "5 minutes",
        }
        _check_schedule(of, cron, timezone, scheduled, every)
        plan = None
        if cron is not None or every is not None:
            schedule = Every.read(every, f"every {of}") if every is not None else Cron(cron or "", timezone)
            plan = read_plan(of, schedule, catch_up, catch_up_window, jitter, grace)
        expected = None
        if expect_every is not None:
            expected = read_length(expect_every, f"expect_every {of}", least=timedelta(seconds=1))
        late = read_length(expect_grace, f"expect_grace {of}")
        length, pause = (
            read_length(window, f"the window {of}"),
            read_length(backoff, f"the backoff {of}", most=LONGEST_BACKOFF),
        )
        limit = None if timeout is None else interval(timeout, f"the timeout {of}")
        if retries == 0 and backoff != "1 minute":
            raise InvalidArgument(f"backoff {of} does nothing without retries: add retries=3, or leave it out")
        if expect_every is None and expect_grace != "5 minutes":
            raise InvalidArgument(
                f'expect_grace {of} does nothing without expect_every: add expect_every="1 day", or leave it out'
            )

        def register(function: F) -> F:
            check_function(function, f"the function {of}", ("run",))
            if name in self.jobs:
                raise InvalidArgument(
                    f"there is a job {name!r} already, {called(self.jobs[name].function)}: give one another name"
                )
            self.jobs[name] = Job(name, function, key, length, plan, retries, pause, limit, slots, expected, late)
            warn_if_late(self.schedulers, f"job {name}", "scheduler")
            return function

        return register

    def get_job(self, name: str) -> Job:
        """The job of this name.

        Raises:
            NotFound: there is none; the message lists those that are registered.
        """
        return get_named(self.jobs, name, "job")


def _check_schedule(of: str, cron: Any, timezone: Any, more: dict[str, bool], every: Any) -> None:
    """Refuse what would leave a job silently without the schedule that was meant.

    Raises:
        InvalidArgument: an argument is not text, or an option has no schedule to apply to.
    """
    if cron is not None:
        check_text(cron, f"cron {of}", 'cron="0 6 * * *"')
        if cron.startswith("@every "):
            raise InvalidArgument(f'cron {of} is an interval: write every="{cron.removeprefix("@every ")}"')
    check_text(timezone, f"the timezone {of}", 'timezone="America/New_York"')
    if cron is None and timezone != "UTC":
        raise InvalidArgument(f'timezone {of} does nothing without cron: add cron="0 6 * * *", or leave it out')
    if cron is None and every is None and (unused := next((name for name, given in more.items() if given), None)):
        raise InvalidArgument(f"{unused} {of} does nothing without a schedule: add cron= or every=, or leave it out")
