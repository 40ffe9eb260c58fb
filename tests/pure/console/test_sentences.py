"""The four sentences: green only if somebody has looked, and with the number that says why not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from pgonce.console.sentences import MOST_JOBS, Seen, Sentence, make_sentences
from pgonce.console.templating import Clock
from pgonce.core.facts import Facts, StuckImport
from pgonce.core.processes import ProcessLine
from pgonce.jobs.calls_stats import JobLine, MissedTick

NOW = datetime(2026, 11, 26, 13, 2, 36, tzinfo=UTC)
CLOCK = Clock(ZoneInfo("UTC"), NOW)
COMPARED = {"seen": 1204, "recovered": 0, "missing": 0, "not_compared": {}}


def facts(**changed: Any) -> Facts:
    """A quiet day, on which everybody has looked."""
    usual: dict[str, Any] = dict.fromkeys(Facts.__dataclass_fields__)
    usual |= {
        "now": NOW, "last_received_at": NOW - timedelta(minutes=1), "refused": 0,
        "compared_at": NOW - timedelta(hours=3),
        "compared_by": "web-1:7", "compared": COMPARED, "waiting": 0, "waiting_again": 0, "late_events": 0, "ticks": 86,
        "retrying": 0, "late_starts": 0, "failed_jobs": 0, "leases_counted": True, "long_handlers": 0,
        "rows_hidden": False,
        "dead": 0, "dead_causes": 0, "stale_runs": 0, "expired_leases": 0, "handled_p95": timedelta(milliseconds=180),
        "has_schedules": True, "has_queued": True,
    }  # fmt: skip
    return Facts(**{**usual, **changed})


def process(does: list[str], seen: float) -> ProcessLine:
    at = NOW - timedelta(seconds=seen)
    return ProcessLine("web-2", 28, does, "0.1.0", "shop", "1", False, seen < 60, [], [], 0, 4, [], NOW, at, NOW - at)


def job(**changed: Any) -> JobLine:
    usual: dict[str, Any] = dict.fromkeys(JobLine.__dataclass_fields__)
    usual |= {"job_name": "ledger_export", "key": "", "run_id": uuid4(), "status": "running", "stopping": False}
    return JobLine(**{**usual, **changed})


def say(
    found: Facts, seen: float | None = 12, jobs: Any = (), stuck: Any = (), missed: Any = ()
) -> dict[str, Sentence]:
    processes = [] if seen is None else [process(["events", "jobs"], seen)]
    return {each.id: each for each in make_sentences(found, Seen(jobs, missed, stuck, processes), CLOCK)}


def test_on_a_quiet_day_all_four_are_green_and_say_who_looked() -> None:
    said = say(facts())
    assert [(each.state, each.say) for each in said.values()] == [
        ("ok", "Nothing is lost."), ("ok", "Nothing is late."), ("ok", "Nothing is stuck."), ("ok", "Nothing is slow."),
    ]  # fmt: skip
    assert said["late"].look.by == "web-2:28"
    assert said["lost"].look.by == "web-1:7"
    assert "Of 1,204 events that Stripe lists, 0 are missing." in said["lost"].evidence


@pytest.mark.parametrize("seen", [None, 61, 600])
def test_without_a_worker_that_looks_nothing_but_a_fault_is_said(seen: float | None) -> None:
    said = say(facts(), seen)
    assert {each.state for each in said.values()} == {"ok", "unknown"}
    assert said["late"].state == said["stuck"].state == said["slow"].state == "unknown"
    assert said["late"].say.startswith("Not checked")
    assert say(facts(stale_runs=1, stale_job="ledger"), seen)["stuck"].state == "dead"


def test_a_worker_that_only_handles_events_has_not_looked_at_the_ticks() -> None:
    [_, late, *_] = make_sentences(facts(), Seen([], [], [], [process(["events"], 5), process(["jobs"], 300)]), CLOCK)
    assert (late.state, late.say) == ("unknown", "Not checked for 5 min.")
    [_, late, *_] = make_sentences(facts(has_schedules=False), Seen([], [], [], [process(["events"], 5)]), CLOCK)
    assert late.state == "ok"


@pytest.mark.parametrize(
    ("changed", "state", "says"),
    [
        ({"compared_at": None, "compared": None}, "unknown", "Not known: nobody has compared with Stripe."),
        ({"compared_at": NOW - timedelta(days=3)}, "unknown", "Not known: last compared with Stripe 3 d ago."),
        ({"compared": {"error": "Stripe refused"}}, "unknown", "Not known since 10:02:36."),
        ({"compared": {**COMPARED, "missing": 1}}, "dead", "1 event is missing here."),
        ({"compared": {**COMPARED, "not_compared": {"acct_1": "no"}}}, "unknown", "Not known of 1 connected account."),
        ({"refused": 212, "refused_reason": "signature"}, "dead", "212 deliveries were refused in 24 hours."),
        ({"refused": 1, "refused_reason": "time"}, "odd", "Nothing is lost."),
        ({"silent": "no delivery since … Next: `x`"}, "dead", "Deliveries have stopped."),
    ],
)  # fmt: skip
def test_lost_names_what_is_missing_refused_or_unknown(changed: dict[str, Any], state: str, says: str) -> None:
    lost = say(facts(**changed))["lost"]
    assert (lost.state, lost.say) == (state, says)


def test_where_a_job_compares_with_stripe_the_button_leads_to_it() -> None:
    never = facts(compared_at=None, compared=None)
    assert say(never)["lost"].command == "pgonce reconcile"
    lost = say(never, jobs=[job(job_name="stripe_sync", status="succeeded")])["lost"]
    assert (lost.button, lost.path, lost.parameters, lost.command) == (
        "Compare now …", "/job", {"name": "stripe_sync"}, None,
    )  # fmt: skip


def test_late_events_are_shown_where_they_are() -> None:
    due = {"waiting": 229, "late_events": 224, "oldest_due_at": NOW - timedelta(minutes=46)}
    for state, again, said in (("waiting", 0, ""), ("failed", 229, "; 229 of them failed before")):
        late = say(facts(**due, oldest_due_state=state, waiting_again=again))["late"]
        assert (late.path, late.parameters) == ("/webhooks", {"state": state})
        assert late.evidence.startswith(f"229 events are due, the oldest for 46 min{said}.")
    retried = say(facts(retrying=2, retrying_since=NOW, waiting=1, oldest_due_state="waiting", oldest_due_at=NOW))[
        "late"
    ]
    assert retried.parameters == {"state": "failed"}


@pytest.mark.parametrize(
    ("changed", "state", "says"),
    [
        ({"late_events": 3, "waiting": 5, "oldest_due_at": NOW - timedelta(minutes=4)}, "dead", "3 events are late."),
        ({"missed": 1}, "odd", "1 tick is late."),
        ({"late_events": 1, "missed": 2, "oldest_due_at": NOW}, "dead", "1 event and 2 ticks are late."),
        ({"late_starts": 1, "late_start_of": "ledger"}, "odd", "1 start is late."),
        (
            {"late_events": 1, "missed": 1, "late_starts": 1, "oldest_due_at": NOW},
            "dead",
            "1 event, 1 tick and 1 start are late.",
        ),
        ({"retrying": 2, "retrying_since": NOW}, "odd", "2 events have been failing for over an hour."),
    ],
)
def test_late_counts_events_ticks_and_starts(changed: dict[str, Any], state: str, says: str) -> None:
    tick = MissedTick("fx_rates", "", NOW - timedelta(hours=7), NOW, "why")
    late = say(
        facts(**{name: value for name, value in changed.items() if name != "missed"}),
        missed=[tick] * changed.get("missed", 0),
    )["late"]
    assert (late.state, late.say) == (state, says)


def test_stuck_names_the_most_frequent_cause_and_leads_to_it() -> None:
    found = facts(dead=17, dead_causes=2, dead_type="invoice.paid", dead_line="KeyError: 'discounts'", dead_of_cause=14)
    seed = StuckImport("people:people.csv", "in_progress", NOW - timedelta(minutes=26), None)
    stuck = say(found, stuck=[seed])["stuck"]
    assert stuck.say == "17 events and 1 import are stuck."
    assert "14 × invoice.paid: KeyError: 'discounts'" in stuck.evidence
    assert "people:people.csv has stood still for 26 min" in stuck.evidence
    assert (stuck.button, stuck.path, stuck.parameters) == ("See the 2 causes", "/webhooks", {"state": "dead"})


def test_events_that_fail_again_and_again_are_named_with_their_age_and_lead_to_the_list() -> None:
    late = say(facts(retrying=1, retrying_since=NOW - timedelta(days=2)))["late"]
    assert "1 event that has failed will be tried again by itself; the oldest came 2 d ago." in late.evidence
    assert (late.path, late.parameters) == ("/webhooks", {"state": "failed"})


def test_a_job_whose_last_run_failed_is_not_called_well() -> None:
    run = uuid4()
    stuck = say(facts(failed_jobs=1, failed_job="backup", failed_run=run))["stuck"]
    assert (stuck.state, stuck.say) == ("odd", "1 job has failed.")
    assert "The last run of backup failed, and is not retried." in stuck.evidence
    assert (stuck.path, stuck.parameters) == ("/run", {"id": str(run)})


def test_an_import_that_stands_still_although_its_process_is_alive_is_stuck() -> None:
    stuck = say(facts(), stuck=[StuckImport("people", "stalled", NOW - timedelta(hours=4), None)])["stuck"]
    assert (stuck.state, stuck.say) == ("dead", "1 import is stuck.")
    assert "people has stood still for 4 h, although a process is at work on it." in stuck.evidence


def test_nothing_is_called_free_while_not_all_leases_were_looked_at() -> None:
    assert say(facts(leases_counted=False))["stuck"].state == "unknown"


def test_nothing_is_green_where_rows_are_hidden_and_a_fault_stays_one() -> None:
    assert {each.state for each in say(facts(rows_hidden=True)).values()} == {"unknown"}
    assert say(facts(rows_hidden=True, stale_runs=1))["stuck"].state == "dead"


def test_a_handler_that_does_not_end_is_slow() -> None:
    slow = say(facts(long_handlers=1, long_handler="evt_1", long_handler_since=NOW - timedelta(minutes=12)))["slow"]
    assert (slow.state, slow.say) == ("odd", "1 handler has been at work for over 5 min.")
    assert "A handler has been at work on evt_1 for over 12 min." in slow.evidence
    assert (slow.path, slow.parameters) == ("/webhook", {"id": "evt_1"})


def test_a_run_without_a_usual_time_is_slow_when_starts_are_skipped_for_it() -> None:
    new = job(duration_ms=3 * 86_400_000, blocks=3)
    slow = say(facts(), jobs=[new])["slow"]
    assert (slow.state, slow.say) == ("odd", "1 job is slower than usual.")
    assert "ledger_export has run for 3 d; 3 starts were skipped." in slow.evidence
    assert say(facts(), jobs=[job(duration_ms=3 * 86_400_000, blocks=0)])["slow"].state == "ok"


def test_slow_is_a_run_over_its_usual_time_or_webhooks_over_theirs() -> None:
    long = job(duration_ms=42 * 60_000, usual_from_ms=540_000, usual_to_ms=660_000)
    slow = say(facts(), jobs=[long])["slow"]
    assert (slow.state, slow.say) == ("odd", "1 job is slower than usual.")
    assert "ledger_export has run for 42 min; it usually takes 9 to 11 min." in slow.evidence
    assert slow.parameters == {"id": str(long.run_id)}
    short = job(duration_ms=50_000, usual_from_ms=1000, usual_to_ms=2000)
    assert say(facts(), jobs=[short])["slow"].state == "ok"
    found = facts(handled_p95=timedelta(seconds=20), handled_p95_before=timedelta(milliseconds=170))
    assert say(found)["slow"].say == "The webhooks are slower than usual."


def test_where_nothing_has_run_yet_nothing_is_called_fast() -> None:
    assert say(facts(handled_p95=None))["slow"].state == "unknown"


def test_nothing_is_called_slow_or_quick_while_more_runs_are_at_work_than_were_looked_at() -> None:
    well = [job(duration_ms=60_000, usual_from_ms=60_000, usual_to_ms=90_000) for _ in range(MOST_JOBS)]
    assert say(facts(), jobs=well[1:])["slow"].state == "ok"
    assert say(facts(), jobs=well)["slow"].state == "unknown"
    slow = job(duration_ms=42 * 60_000, usual_from_ms=60_000, usual_to_ms=90_000)
    assert say(facts(), jobs=[slow, *well])["slow"].say == "1 job is slower than usual."
