"""The lines that a process prints at its start: what it does, and what it does not do."""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pgonce.app import App
from pgonce.cli.output import print_line
from pgonce.core import database, environment, logs
from pgonce.jobs.cron import Plan
from pgonce.webhooks.event_types import doubts

INDENT = " " * 10
WIDTH = 100
MOST_JOBS = 50
"""Jobs that are named: an app that registers one for each customer has thousands."""


def announce(text: str) -> None:
    """Print it on stderr, or log it where PGONCE_LOG asks for JSON."""
    if logs.is_json():
        for line in text.splitlines():
            logging.getLogger("pgonce").info("%s", " ".join(line.split()))
    else:
        with suppress(OSError):  # after SIGHUP the terminal is gone
            for line in text.splitlines():
                print_line(line, len(INDENT), err=True)


def describe_database(url: str, schema: str) -> str:
    """The release, the database without user and password, the schema, and variables that are misspelt."""
    lines = [f"pgonce {version('pgonce')} on {database.check(url)}, schema {schema}"]
    lines += [f"warning   {doubt}" for doubt in environment.doubts(os.environ)]
    return "\n".join(lines)


def describe_handlers(app: App, concurrency: int | None) -> str:
    """The patterns of the handlers; ``concurrency`` None: this process handles nothing."""
    if concurrency is None:
        return "handles   nothing here: --no-worker; `pgonce worker` does"
    patterns = list(dict.fromkeys(handler.pattern for handler in app.handlers))
    if not patterns:
        return "handles   nothing: the app has no handlers"
    lines = [_line("handles", [*patterns[:-1], f"{patterns[-1]}   {concurrency} at a time"], ", ")]
    lines += [f"warning   {doubt}" for doubt in doubts(patterns)]
    return "\n".join(lines)


def describe_jobs(app: App, option: str | None) -> str:
    """The scheduled jobs with their next tick. ``option`` is the option by which this process does not start jobs."""
    planned = [(job.name, job.plan) for job in app.jobs.values() if job.plan]
    if option is not None:
        return f"jobs      none here: {option}"
    if not planned:
        return "jobs      none is scheduled"
    now = datetime.now(UTC)
    items = [f"{name} next {_next_tick(plan, now)}" for name, plan in planned[:MOST_JOBS]]
    if more := len(planned) - len(items):
        items.append(f"{more:,} more: `pgonce job schedule`")
    return _line("jobs", items, " · ")


def _next_tick(plan: Plan, now: datetime) -> str:
    tick = plan.schedule.after(now)
    if tick is None:
        return "never"
    zone = ZoneInfo(plan.schedule.timezone)
    local, today = tick.astimezone(zone), now.astimezone(zone).date()
    days = {today: "", today + timedelta(days=1): "tomorrow "}
    named = "" if plan.schedule.timezone == "UTC" else f" {plan.schedule.timezone}"
    return f"{days.get(local.date(), f'{local:%Y-%m-%d} ')}{local:%H:%M}{named}"


def describe_alerts(channels: Sequence[str] | None) -> str:
    """The channels of alerts, each only by its host or service, because the rest of a URL is secret."""
    if channels is None:
        return "alerts    none here: --no-alerts"
    if not channels:
        return "alerts    none: name a channel with --alert or PGONCE_ALERTS"
    return _line("alerts", [_channel(channel) for channel in channels], ", ")


def _channel(url: str) -> str:
    parts = urlsplit(url)
    return parts.hostname or "https" if parts.scheme in {"http", "https"} else parts.scheme.removeprefix("json+")


def _line(name: str, items: Iterable[str], separator: str) -> str:
    text = separator.join(items)
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{name:10}",
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
