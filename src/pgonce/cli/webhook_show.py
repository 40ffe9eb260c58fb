"""What ``pgonce webhook show`` prints: the event's state, its life, the place of its last error, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich.cells import cell_len, set_cell_size

from pgonce.cli.output import json_text, print_diagnosis, print_line, printable, suggested, terminal
from pgonce.cli.times import took
from pgonce.console.traceback import read_traceback
from pgonce.core.adapters import read_time
from pgonce.core.diagnosis import Diagnosis


@dataclass(frozen=True)
class Step:
    """A line of an event's life."""

    at: datetime
    what: str
    reason: str = ""
    by: str = ""
    attempt: int | None = None
    """The number of a failed attempt."""


def print_event(event: dict[str, Any], diagnosis: Iterable[Diagnosis], *, whole: bool) -> None:
    """Print an event as ``pgonce_get_webhook`` returns it. ``whole``: also the payload and the whole traceback."""
    now = datetime.now(UTC)
    payload, traceback = event["payload"], event["error_message"]
    print_line(f"{printable(event['event_type'])}  {printable(event['stripe_event_id'])}  {_state(event, now)}")
    print_line(f"  {'  '.join(_facts(event))}", 2)
    _print_life(_life(event))
    if traceback and (place := _place(traceback, event["error_line"] or "")):
        click.echo()
        for line in place:
            print_line(f"  {printable(line)}", 2)
    print_diagnosis(diagnosis)
    if whole:
        click.echo(f"\npayload\n{json_text(payload, indent=2)}")
        if traceback:
            click.echo("\n".join(["\nlast error", *map(printable, traceback.split("\n"))]))
    else:
        click.echo()
        print_line(f"payload and traceback: {suggested('webhook show', event['stripe_event_id'], ' --all')}")


def _state(event: dict[str, Any], now: datetime) -> str:
    status, due, lease = event["status"], _moment(event["next_attempt_at"]), _moment(event["lease_expires_at"])
    if status == "succeeded":
        return "✔ succeeded"
    if status == "ignored":
        return f"○ ignored: {printable(event['ignored_reason'] or 'no reason')}"
    if status == "failed" and due:
        return f"● failed, again in {took(due - now)}" if due > now else "● failed, due again"
    if status == "failed":
        return "✗ dead, nobody tries it again by itself" if event["queued"] else "✗ failed, Stripe's retry is the next"
    if event["lease"] and lease:
        return "● processing" if lease > now else "● processing, its lease has run out"
    return f"● waiting for {took(due - now)}" if due and due > now else "● waiting for a worker"


def _facts(event: dict[str, Any]) -> list[str]:
    mode = {True: "live", False: "test", None: "mode –"}[event["livemode"]]
    size = len(json.dumps(event["payload"], ensure_ascii=False).encode("utf-8", "replace"))
    named = [f"{name} {printable(event[column] or '–')}" for name, column in (
        ("object", "object_id"), ("customer", "customer_id"), ("account", "account"))]  # fmt: skip
    return [*named, mode, f"{size / 1000:.1f} kB", f"{event['attempts']} attempt{'s' * (event['attempts'] != 1)}"]


def _life(event: dict[str, Any]) -> list[Step]:
    """What happened to the event, in chronological order; equal failures one after the other are one line."""
    life = []
    payload = event["payload"]  # any JSON, where a client of the specification wrote it
    if isinstance(payload, dict) and isinstance(created := payload.get("created"), int):
        with suppress(OverflowError, ValueError, OSError):
            life.append(Step(datetime.fromtimestamp(created, UTC), "created at Stripe"))
    again = event["deliveries"] - 1
    times = "once" if again == 1 else f"{again} times"
    came = "delivered" if again >= 0 else "found in Stripe's list"
    received = f"{came}, recorded{f'; delivered {times} more' * (again > 0)}"
    life.append(Step(_known(event["received_at"]), received))
    life += _attempts(event["history"])
    if event["processed_at"] and event["status"] in {"succeeded", "ignored"}:
        life.append(Step(_known(event["processed_at"]), event["status"]))
    return life


def _attempts(history: Sequence[dict[str, Any]]) -> list[Step]:
    found = [_attempt(each) for each in history]
    kept: list[Step] = []
    for number, each in enumerate(found):
        before, after = found[number - 1 : number], found[number + 1 : number + 2]
        alike = [other.attempt and other.reason == each.reason for other in before + after]
        if each.attempt and len(alike) == 2 and all(alike):  # neither the first nor the last of equal ones
            if kept[-1].attempt is None and kept[-1].what.startswith("attempts"):
                kept[-1] = Step(each.at, f"{kept[-1].what.split(' to ')[0]} to {each.attempt}", "the same")
            else:
                kept.append(Step(each.at, f"attempts {each.attempt} to {each.attempt}", "the same"))
        else:
            kept.append(each)
    return kept


def _attempt(row: dict[str, Any]) -> Step:
    kind, attempt, ended = row["what"], row["attempt"], _known(row["ended_at"])
    names = {"failed": f"attempt {attempt} failed", "lost": f"attempt {attempt} was lost"}
    what = names.get(kind, kind)
    if began := _moment(row["began_at"]):
        what += f" after {took(ended - began)}"
    reason = printable(row["error_line"] or (row["error"] or "").rstrip().rpartition("\n")[2])
    return Step(ended, what, reason, printable(row["worker"] or ""), attempt if kind == "failed" else None)


def _print_life(life: Sequence[Step]) -> None:
    wide = {name: max(cell_len(getattr(each, name)) for each in life) for name in ("what", "reason", "by")}
    if console := terminal():
        rest = console.width - len("  00:00:00  ") - wide["what"] - wide["by"] - 4
        wide["reason"] = min(wide["reason"], max(rest, 16))
    day = None
    for each in life:
        if each.at.date() != day:
            day = each.at.date()
            click.echo(f"\n  {day} (UTC)")
        fits = cell_len(each.reason) <= wide["reason"]
        reason = each.reason if fits else f"{set_cell_size(each.reason, wide['reason'] - 1)}…"
        text = (
            f"  {each.at:%H:%M:%S}  {set_cell_size(each.what, wide['what'])}  {set_cell_size(reason, wide['reason'])}"
        )
        click.echo(f"{text}  {each.by}".rstrip())


def _place(traceback: str, error: str) -> list[str]:
    """The innermost line of the application's own code, and the exception's own line."""
    found = read_traceback(traceback).frame
    if found is None:
        return [error]
    return [f"{found.file}:{found.line}  in {found.function}", *(f"  {line.strip()}" for line in found.code[:1]), error]


def _known(text: str) -> datetime:
    return read_time(text).astimezone(UTC)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else _known(text)
