"""Lost, late, stuck, slow: what the first page says, made from facts. Green only if somebody has looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from pgonce.console.templating import Clock, duration, plural, span
from pgonce.console.text import brief
from pgonce.core.facts import Facts, StuckImport
from pgonce.core.processes import ProcessLine
from pgonce.jobs.calls_stats import JobLine, MissedTick
from pgonce.stripe_sync import NAME as COMPARISON
from pgonce.webhooks.refusals import REASONS

State = Literal["ok", "odd", "dead", "unknown"]
MOST_JOBS = 20
"""Jobs on the first page; those that run come first, the oldest runs before the others."""
COMPARE_WITHIN = timedelta(hours=26)
"""A comparison with Stripe that is older does not count. One a day is enough."""


@dataclass(frozen=True, slots=True)
class Look:
    """When somebody last looked, and who."""

    at: datetime | None
    by: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """One of the four sentences."""

    id: Literal["lost", "late", "stuck", "slow"]
    question: str
    state: State
    say: str
    evidence: str
    look: Look
    button: str
    path: str
    """Where the button leads: a page of the console."""
    parameters: dict[str, str]
    command: str | None = None
    """What to type, where the console cannot do it."""


def look_of(processes: Sequence[ProcessLine], does: str) -> Look:
    """The newest heartbeat of a process that does ``does``."""
    seen = [line for line in processes if does in line.does]
    newest = max(seen, key=lambda line: line.last_seen_at, default=None)
    return Look(None, "") if newest is None else Look(newest.last_seen_at, f"{newest.host}:{newest.pid}")


def looked(facts: Facts, processes: Sequence[ProcessLine]) -> Look:
    """The last look at events and ticks; if two kinds of process are needed for it, the earlier of their last looks."""
    looks = []
    if facts.has_queued or not facts.has_schedules:
        looks.append(look_of(processes, "events"))
    if facts.has_schedules:
        looks.append(look_of(processes, "jobs"))
    never = datetime.min.replace(tzinfo=UTC)
    return min(looks, key=lambda look: look.at or never)


def is_fresh(look: Look, facts: Facts) -> bool:
    """Whether it was within the last minute, which is how long a process counts as alive."""
    return look.at is not None and facts.now - look.at < timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the sentences are made from, beside the facts."""

    jobs: Sequence[JobLine]
    missed: Sequence[MissedTick]
    stuck: Sequence[StuckImport]
    processes: Sequence[ProcessLine]


def make_sentences(facts: Facts, seen: Seen, clock: Clock) -> list[Sentence]:
    """The four sentences."""
    look = looked(facts, seen.processes)
    found = [
        _lost(facts, seen.jobs, clock),
        _late(facts, look, seen.missed, clock),
        _stuck(facts, look, seen.stuck, clock),
        _slow(facts, look, seen.jobs),
    ]
    return [_blind(each) if facts.rows_hidden and each.state == "ok" else each for each in found]


def _blind(sentence: Sentence) -> Sentence:
    """The sentence for a role that cannot see the rows: not known, and not green."""
    evidence = "Row-level security hides rows from the console's role: connect as the owner of the tables."
    return replace(sentence, state="unknown", say="Not known: rows are hidden.", evidence=evidence)


def _lost(facts: Facts, jobs: Sequence[JobLine], clock: Clock) -> Sentence:
    compared = facts.compared or {}
    look = Look(facts.compared_at, facts.compared_by or "")
    said = [_refused(facts)]
    if facts.last_received_at is not None:
        said.insert(0, f"The last delivery came {clock.ago(facts.last_received_at)}.")
    not_compared = compared.get("not_compared") or {}
    missing, seen = int(compared.get("missing") or 0), int(compared.get("seen") or 0)
    state: State
    if facts.refused >= 3 or facts.silent:
        state, say = "dead", f"{plural(facts.refused, 'delivery was', 'deliveries were')} refused in 24 hours."
        if facts.silent:
            say = "Deliveries have stopped."
            said.append(facts.silent.partition(" Next:")[0])
    elif missing:
        state, say = "dead", f"{plural(missing, 'event is', 'events are')} missing here."
    elif facts.compared_at is None:
        state, say = "unknown", "Not known: nobody has compared with Stripe."
    elif "error" in compared:
        state, say = "unknown", f"Not known since {clock.text(facts.compared_at)}."
        said.append(f"The comparison with Stripe failed: {compared['error']}.")
    elif facts.now - facts.compared_at > COMPARE_WITHIN:
        state, say = "unknown", f"Not known: last compared with Stripe {clock.ago(facts.compared_at)}."
    elif not_compared:
        state, say = "unknown", f"Not known of {plural(len(not_compared), 'connected account')}."
        account, reason = next(iter(not_compared.items()))
        said.append(f"{account} could not be compared: {reason}.")
    else:
        state, say = ("odd" if facts.refused else "ok"), "Nothing is lost."
    if facts.compared_at is not None and "error" not in compared:
        recovered = int(compared.get("recovered") or 0)
        said.append(
            f"Of {plural(seen, 'event')} that Stripe lists, {missing:,} {'is' if missing == 1 else 'are'} missing"
            + (f"; {recovered:,} had not arrived, and were queued." if recovered else ".")
        )
    button, path, parameters = "See the deliveries", "/webhooks", dict[str, str]()
    command: str | None = "pgonce reconcile"
    if any(job.job_name == COMPARISON for job in jobs):
        command = None
        if state == "unknown":
            button, path, parameters = "Compare now …", "/job", {"name": COMPARISON}
    return Sentence("lost", "Lost?", state, say, " ".join(said), look, button, path, parameters, command)


def _refused(facts: Facts) -> str:
    if not facts.refused:
        return "Refused deliveries in 24 hours: 0."
    why = REASONS.get(facts.refused_reason or "", facts.refused_reason or "").rstrip("?")
    return f"Refused deliveries in 24 hours: {facts.refused:,}, mostly because {why}."


def _not_looked(look: Look, clock: Clock) -> str:
    if look.at is None:
        return "Not checked: no worker has been seen for a day."
    return f"Not checked for {clock.ago(look.at).removesuffix(' ago')}."


def _late(facts: Facts, look: Look, missed: Sequence[MissedTick], clock: Clock) -> Sentence:
    said = []
    if facts.oldest_due_at is None:
        said.append("No event is waiting.")
    else:
        again = f"; {facts.waiting_again:,} of them failed before" if facts.waiting_again else ""
        said.append(
            f"{plural(facts.waiting, 'event is', 'events are')} due, "
            f"the oldest for {duration(facts.now - facts.oldest_due_at)}{again}."
        )
    if facts.has_schedules or facts.ticks:
        said.append(f"{plural(facts.ticks, 'tick')} started in 24 hours, {len(missed):,} missed.")
    if missed:
        said.append(f"The last one was {missed[0].job_name} at {clock.text(missed[0].scheduled_for)}.")
    if facts.late_starts:
        said.append(f"A run of {facts.late_start_of} is due, and no worker that has the job has started it.")
    if facts.retrying and facts.retrying_since is not None:
        said.append(
            f"{plural(facts.retrying, 'event that has', 'events that have')} failed will be tried again by "
            f"{'itself' if facts.retrying == 1 else 'themselves'}; the oldest came {clock.ago(facts.retrying_since)}."
        )
    counts = {"event": facts.late_events, "tick": len(missed), "start": facts.late_starts}
    late = [plural(count, noun) for noun, count in counts.items() if count]
    state: State
    if late:
        are = "is" if sum(counts.values()) == 1 else "are"
        state, say = "dead" if facts.late_events else "odd", f"{_listed(late)} {are} late."
    elif facts.retrying:
        state, say = "odd", f"{plural(facts.retrying, 'event has', 'events have')} been failing for over an hour."
    elif not is_fresh(look, facts):
        state, say = "unknown", _not_looked(look, clock)
    else:
        state, say = "ok", "Nothing is late."
    events_first = bool(facts.late_events) or (not late and bool(facts.retrying))
    shown = {"state": (facts.late_events and facts.oldest_due_state) or "failed"} if events_first else {}
    return Sentence(
        "late", "Late?", state, say, " ".join(said), look, "See the events" if events_first else "See the day",
        "/webhooks" if events_first else "/jobs", shown,
        None if is_fresh(look, facts) else "pgonce worker --app MODULE:APP",
    )  # fmt: skip


def _stuck(facts: Facts, look: Look, imports: Sequence[StuckImport], clock: Clock) -> Sentence:
    what, said = [], []
    if facts.dead:
        what.append(plural(facts.dead, "event") if facts.dead <= 1000 else "1,000+ events")
        causes = plural(facts.dead_causes, "cause")
        cause = f"{facts.dead_of_cause or 0:,} × {facts.dead_type}: {brief(facts.dead_line or '')}."
        said.append(
            f"The events have {causes}: {cause}"
            if facts.dead_causes == 1
            else f"The events have {causes}; the most frequent is {cause}"
        )
    if facts.stale_runs:
        what.append(plural(facts.stale_runs, "run"))
        said.append(f"A run of {facts.stale_job} has sent no heartbeat for its window.")
    if imports:
        what.append(plural(len(imports), "import"))
        first = imports[0]
        how = "has failed" if first.status == "failed" else f"has stood still for {duration(facts.now - first.since)}"
        at_work = ", although a process is at work on it" if first.status == "stalled" else ""
        said.append(f"The import {first.seed_name} {how}{at_work}.")
    if facts.expired_leases:
        what.append(plural(facts.expired_leases, "delivery", "deliveries"))
        said.append(f"{plural(facts.expired_leases, 'event was', 'events were')} taken by a client that has ended.")
    if facts.failed_jobs:
        said.append(f"The last run of {facts.failed_job} failed, and is not retried.")
    count = facts.dead + facts.stale_runs + len(imports) + facts.expired_leases
    state: State
    if what:
        state, say = "dead", f"{_listed(what)} {'is' if count == 1 else 'are'} stuck."
    elif facts.failed_jobs:
        state, say = "odd", f"{plural(facts.failed_jobs, 'job has', 'jobs have')} failed."
    elif not is_fresh(look, facts):
        state, say = "unknown", _not_looked(look, clock)
    elif not facts.leases_counted:
        state, say = "unknown", "Not known: too many events wait to look at all of them."
    else:
        state, say = "ok", "Nothing is stuck."
        said.append("No dead letter, no run without heartbeat, no import that stands still.")
    return Sentence("stuck", "Stuck?", state, say, " ".join(said), look, *_where_stuck(facts, imports))


def _where_stuck(facts: Facts, imports: Sequence[StuckImport]) -> tuple[str, str, dict[str, str]]:
    if facts.dead:
        button = "See the cause" if facts.dead_causes == 1 else f"See the {facts.dead_causes} causes"
        return button, "/webhooks", {"state": "dead"}
    if facts.stale_runs:
        return "See the run", "/run", {"id": str(facts.stale_run)}
    if imports:
        return "See the import", "/import", {"name": imports[0].seed_name}
    if facts.failed_jobs and not facts.expired_leases:
        return "See the run", "/run", {"id": str(facts.failed_run)}
    return "See the events", "/webhooks", {}


def is_slow(job: JobLine) -> bool:
    """Whether a running run takes over a minute and over half as long again as 9 of 10 runs.

    Without enough runs to say what is usual, one that is in the way of the next start is slow.
    """
    if job.status != "running" or job.duration_ms is None:
        return False
    if job.usual_to_ms is None:
        return job.duration_ms > 60_000 and bool(job.blocks)
    return job.duration_ms > 60_000 and job.duration_ms > 1.5 * job.usual_to_ms


def _slow(facts: Facts, look: Look, jobs: Sequence[JobLine]) -> Sentence:
    slow = [job for job in jobs if is_slow(job)]
    said = []
    if slow:
        job = slow[0]
        than = f"{plural(job.blocks or 0, 'start was', 'starts were')} skipped"
        if job.usual_to_ms is not None:
            than = f"it usually takes {span(job.usual_from_ms or 0, job.usual_to_ms)}"
        said.append(f"{job.job_name} {job.key}".rstrip() + f" has run for {duration(job.duration_ms)}; {than}.")
    if facts.long_handlers and facts.long_handler_since is not None:
        said.append(
            f"A handler has been at work on {facts.long_handler} for over "
            f"{duration(facts.now - facts.long_handler_since)}."
        )
    p95, before = facts.handled_p95, facts.handled_p95_before
    slower = False
    if p95 is not None:
        was = f" (a week ago: {duration(before)})" if before is not None else ""
        said.append(f"Webhooks: 95 of 100 are handled within {duration(p95)}{was}.")
        slower = before is not None and p95 > 3 * before and p95 > timedelta(seconds=5)
    state: State
    if slow or slower:
        what = [plural(len(slow), "job is", "jobs are")] if slow else []
        what += ["the webhooks are"] if slower else []
        text = f"{' and '.join(what)} slower than usual."
        state, say = "odd", text[:1].upper() + text[1:]
    elif facts.long_handlers:
        handlers = plural(facts.long_handlers, "handler has", "handlers have")
        state, say = "odd", f"{handlers} been at work for over 5 min."
    elif not (p95 or jobs):
        state, say = "unknown", "Not known: nothing has run yet."
    elif look.at is None:
        state, say = "unknown", "Not checked: no worker has been seen for a day."
    elif not is_fresh(look, facts):
        state, say = "unknown", "Not checked: no worker is alive."
    elif sum(job.status == "running" for job in jobs) >= MOST_JOBS:
        state, say = "unknown", f"Not known: only the {MOST_JOBS} oldest of the runs at work were looked at."
    else:
        state, say = "ok", "Nothing is slow."
    return Sentence("slow", "Slow?", state, say, " ".join(said), look, *_where_slow(facts, slow))


def _where_slow(facts: Facts, slow: Sequence[JobLine]) -> tuple[str, str, dict[str, str]]:
    if slow and slow[0].run_id is not None:
        return "See the run", "/run", {"id": str(slow[0].run_id)}
    if facts.long_handlers and not slow:
        return "See the event", "/webhook", {"id": facts.long_handler or ""}
    return "See the day", "/jobs", {}


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
