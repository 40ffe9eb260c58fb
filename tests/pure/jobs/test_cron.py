"""Cron expressions in time zones, and what happens to late ticks, at explicit times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgonce
from pgonce.core.interval import interval
from pgonce.errors import InvalidArgument
from pgonce.jobs import cron
from pgonce.jobs.calls_schedule import upcoming
from pgonce.jobs.cron import CatchUp, Cron, Every, Plan, read_schedule
from pgonce.jobs.tick_queue import TickQueue

moments = cron._moments
NEW_YORK, LONDON = "America/New_York", "Europe/London"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # fixed hours: once in the repeated hour; after the skipped hour, if the time is in it
        ("30 1 * * *", NEW_YORK, "2026-10-31 12:00", ["2026-11-01 05:30", "2026-11-02 06:30"]),
        ("30 2 * * *", NEW_YORK, "2026-03-07 12:00", ["2026-03-08 07:00", "2026-03-09 06:30"]),
        ("0,30 2 * * *", NEW_YORK, "2026-03-07 12:00", ["2026-03-08 07:00", "2026-03-09 06:00"]),
        ("30 1 * * *", LONDON, "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
        ("30 1 * * *", LONDON, "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-30 00:30"]),
        # after a tick in the second of the two hours there is no tick in the first
        ("30 1 * * *", NEW_YORK, "2026-11-01 06:10", ["2026-11-02 06:30"]),
        # a star goes by elapsed time
        ("*/30 * * * *", NEW_YORK, "2026-11-01 05:00", ["2026-11-01 05:30", "2026-11-01 06:00", "2026-11-01 06:30"]),
        ("0 6 * * *", "UTC", "2026-11-01 06:00", ["2026-11-02 06:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01 00:00", ["2028-02-29 00:00"]),
        # a step within one value is that value
        ("0-00/5 5-05/2 * Feb-FEB/3 1-1/1,mon-mon/2", "UTC", "2026-02-02 05:00", ["2026-02-09 05:00"]),
        ("0 0 29 2 *", "UTC", "2096-03-01 00:00", ["2104-02-29 00:00"]),
        # clocks that change by half an hour, at midnight, by two hours; an offset of 45 minutes
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", ["2026-10-03 15:30", "2026-10-04 15:15"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04 00:00", ["2026-04-04 14:45", "2026-04-05 15:15"]),
        ("0 0 * * *", "America/Sao_Paulo", "2018-11-03 12:00", ["2018-11-04 03:00", "2018-11-05 02:00"]),
        ("0 0 * * *", "America/Havana", "2024-11-02 12:00", ["2024-11-03 04:00", "2024-11-04 05:00"]),
        ("30 1 * * *", "Antarctica/Troll", "2026-03-28 12:00", ["2026-03-29 01:00", "2026-03-29 23:30"]),
        ("30 1 * * *", "Antarctica/Troll", "2026-10-24 12:00", ["2026-10-24 23:30", "2026-10-26 01:30"]),
        ("0 9 * * *", "Asia/Kathmandu", "2026-01-01 00:00", ["2026-01-01 03:15", "2026-01-02 03:15"]),
        # set back at 00:01: midnight comes twice
        (
            "0 */2 * * *",
            "America/St_Johns",
            "2006-10-29 02:00",
            ["2006-10-29 02:30", "2006-10-29 03:30", "2006-10-29 05:30"],
        ),
        # set back by half an hour, and at a quarter to: the full hour after it has its tick
        ("0 */2 * * *", "Australia/Lord_Howe", "2026-04-04 14:00", ["2026-04-04 15:30", "2026-04-04 17:30"]),
        ("*/15 2 * * *", "Pacific/Chatham", "2026-04-04 13:30", ["2026-04-04 14:00", "2026-04-05 13:15"]),
        # Samoa skipped 30 December 2011: what was due on it runs when the day is over
        ("0 9 * * *", "Pacific/Apia", "2011-12-29 00:00", ["2011-12-29 19:00", "2011-12-30 10:00", "2011-12-30 19:00"]),
    ],
)
def test_a_tick_comes_when_debians_cron_would_run(expression: str, zone: str, after: str, expected: list[str]) -> None:
    found = list(islice(Cron(expression, zone).ticks(utc(after)), len(expected)))
    assert found == [utc(each) for each in expected]


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        (NEW_YORK, "2026-03-08 07:00"), (NEW_YORK, "2026-11-01 06:00"), ("Africa/Cairo", "2026-04-23 22:00"),
        ("Africa/Cairo", "2026-10-29 21:00"), ("Australia/Lord_Howe", "2026-10-03 15:30"),
        ("Australia/Lord_Howe", "2026-04-04 15:00"), ("Pacific/Chatham", "2026-04-04 14:00"),
        ("Antarctica/Troll", "2026-03-29 01:00"), ("Antarctica/Troll", "2026-10-25 01:00"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("minute", ["*", "*/20", "0", "15,45", "50"])
@pytest.mark.parametrize("hour", ["*", "*/2", "0", "1", "2", "3", "0-3"])
def test_around_a_change_of_the_clocks_ticks_come_as_in_a_walk_through_the_minutes(
    zone: str, change: str, minute: str, hour: str
) -> None:
    def values(field: str, size: int) -> set[int]:
        reach, _, step = field.replace("*", f"0-{size - 1}").partition("/")
        parts = [part.partition("-") for part in reach.split(",")]
        return {n for low, _, high in parts for n in range(int(low), int(high or low) + 1, int(step or 1))}

    minutes, hours = values(minute, 60), values(hour, 24)
    begin = utc(change) - timedelta(hours=5)
    expected, shown = [], begin.astimezone(ZoneInfo(zone)).replace(tzinfo=None) - timedelta(minutes=1)
    for now in (begin + timedelta(minutes=n) for n in range(600)):
        clock = now.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
        times = [clock]
        if not (minute + hour).count("*"):  # what was skipped, and nothing twice
            times = [shown + timedelta(minutes=n + 1) for n in range((clock - shown) // timedelta(minutes=1))]
            shown = max(shown, clock)
        if any(time.minute in minutes and time.hour in hours for time in times):
            expected.append(now)
    cron = Cron(f"{minute} {hour} * * *", zone)
    assert cron.between(begin - timedelta(minutes=1), begin + timedelta(minutes=599)) == expected


def test_the_next_tick_in_a_repeated_hour_takes_no_longer_than_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, read = Cron("* * * * *", NEW_YORK), []

    def counted(time: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
        read.append(time)
        return moments(time, zone)

    monkeypatch.setattr(cron, "_moments", counted)
    for after in ("2026-11-01 05:55", "2026-11-01 06:55", "2026-06-01 05:55"):
        assert schedule.after(utc(after)) == utc(after) + timedelta(minutes=1)
    assert len(read) == 6, "two for each: of the time itself, and of the next one"


@given(
    st.integers(0, 366 * 86400),
    st.sampled_from(["30 1 * * *", "*/7 1,2 * * *", "0 2 * * *"]),
)
def test_ticks_only_go_forward_wherever_one_begins(seconds: int, expression: str) -> None:
    start = utc("2026-01-01") + timedelta(seconds=seconds)
    for zone in (NEW_YORK, LONDON):
        cron = Cron(expression, zone)
        found = list(islice(cron.ticks(start), 5))
        assert all(earlier < later for earlier, later in zip([start, *found], found, strict=False))
        step = start
        for tick in found:
            assert (step := cron.after(step) or step) == tick


@pytest.mark.parametrize("written", ["0 6 * * *\n", "\n  0\t6  *\n* *", "0 6 * * *\r\n"])
def test_the_space_around_the_fields_is_no_part_of_a_schedule(written: str) -> None:
    assert Cron(written) == Cron("0 6 * * *")
    assert Cron(" @daily\n").expression == "@daily"
    with pytest.raises(InvalidArgument) as refused:
        Cron(f"{written} *")
    assert "\n" not in str(refused.value)


def test_the_line_break_of_a_file_is_no_part_of_a_time_zone() -> None:
    assert Cron("0 6 * * *", "Europe/Berlin\n") == Cron("0 6 * * *", "Europe/Berlin")
    with pytest.raises(InvalidArgument, match='there is no time zone "Mars Olympus"'):
        Cron("0 6 * * *", "Mars\nOlympus")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cron": "* * * *"}, "has not five fields"),
        ({"cron": "0 * * * * *"}, "has not five fields"),
        ({"cron": "61 * * * *"}, "cannot be read: bad minute"),
        ({"cron": f"{'9' * 5000} * * * *"}, "cannot be read: exceeds the limit"),
        ({"cron": "0 0 31 2 *"}, "cannot be read"),
        ({"cron": "0 6 * * *", "timezone": "New York"}, 'no time zone "New York"'),
        ({"cron": "0 6 * * *", "timezone": "../etc/passwd"}, "no time zone"),
        ({"cron": "0 6 * * *", "timezone": "localtime"}, "is another one on each machine"),
        ({"cron": "0 6 * * *", "catch_up": "some"}, '"none", "last" or "all"'),
        ({"cron": "0 6 * * *", "grace": "soon"}, "the grace of job j"),
        ({"cron": "0 6 * * *", "jitter": "-1s"}, "the jitter of job j"),
        ({"retries": -1}, "must be a whole number of at least 0"),
        ({"timeout": "0s"}, "the timeout of job j"),
    ],
)
def test_a_job_that_cannot_be_scheduled_is_refused_where_it_is_registered(options: dict, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        pgonce.App().job("j", **options)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


# a job that runs every minute, without a scheduler from 00:00 to 00:30:10; catch-up ten minutes, grace two minutes
@pytest.mark.parametrize(
    ("catch_up", "run", "given_up"),
    [
        ("none", ["00:30"], "00:29"),
        ("last", ["00:30"], "00:29"),
        ("all", [f"00:{minute}" for minute in range(21, 31)], "00:20"),
    ],
)
def test_what_is_owed_after_a_gap_is_what_the_policy_says(catch_up: CatchUp, run: list[str], given_up: str) -> None:
    plan = Plan(Cron("* * * * *"), catch_up, window=timedelta(minutes=10), grace=timedelta(minutes=2))
    day = "2026-01-01 "
    owed = plan.overdue(utc(day + "00:00"), utc(day + "00:30:10"))
    assert owed == ([utc(day + each) for each in run], utc(day + given_up))


@pytest.mark.parametrize(("catch_up", "runs"), [("none", False), ("last", True), ("all", True)])
def test_a_daily_tick_of_an_hour_ago_runs_only_where_it_is_to_be_caught_up(catch_up: CatchUp, runs: bool) -> None:
    plan = Plan(Cron("0 6 * * *"), catch_up)
    tick = utc("2026-01-02 06:00")
    run, given_up = plan.overdue(utc("2026-01-01 06:00"), utc("2026-01-02 07:00"))
    assert (run, given_up) == (([tick], None) if runs else ([], tick))


def test_a_year_without_schedulers_is_looked_through_in_no_time() -> None:
    plan = Plan(Cron("* * * * *"), "last")
    run, given_up = plan.overdue(utc("2020-01-01"), utc("2026-01-01"))
    assert run == [utc("2026-01-01")]
    assert given_up == utc("2025-12-31 23:59")


def test_the_agenda_gives_each_tick_once_and_says_when_the_next_one_is_due() -> None:
    plans = {(f"job_{n}", ""): Plan(Cron("*/2 * * * *" if n % 2 else "* * * * *")) for n in range(10)}
    now = utc("2026-01-01 00:00:30")
    queue = TickQueue(plans, {}, now)
    seen = []
    for _ in range(4):
        assert queue.next_at is not None
        assert list(queue.due(queue.next_at - timedelta(microseconds=1))) == []
        now = queue.next_at
        seen += [(name[0], tick) for name, tick in queue.due(now)]
    assert len(seen) == len(set(seen)) == 5 * 4 + 5 * 2
    assert queue.next_at == utc("2026-01-01 00:05")


def test_jitter_delays_a_tick_by_the_same_on_every_machine_and_spreads_the_jobs() -> None:
    plans = {(f"job_{n}", ""): Plan(Cron("0 * * * *"), jitter=timedelta(minutes=10)) for n in range(100)}
    start = utc("2026-01-01 00:30")
    one, other = TickQueue(plans, {}, start), TickQueue(plans, {}, start)
    assert one.next_at == other.next_at
    early = list(one.due(utc("2026-01-01 01:05")))
    assert 20 < len(early) < 80
    assert {tick for _, tick in early} == {utc("2026-01-01 01:00")}
    assert len(early) + len(list(one.due(utc("2026-01-01 01:10")))) == 100


@pytest.mark.parametrize(
    ("expression", "jitter", "grace"),
    [
        ("0 * * * *", "30 minutes", "5 minutes"),
        ("* * * * *", "40 seconds", "5 seconds"),
        ("* * * * *", "1 hour", "1 s"),
    ],
)
def test_a_jitter_longer_than_the_grace_or_the_time_between_two_ticks_loses_none(
    expression: str, jitter: str, grace: str
) -> None:
    cron = Cron(expression)
    plan = Plan(cron, jitter=interval(jitter), grace=interval(grace))
    start = since = utc("2026-01-01 00:00:30")
    name = ("j", "")
    queue = TickQueue({name: plan}, {}, start)
    found: list[datetime] = []
    while len(found) < 100:
        now = queue.next_at
        assert now is not None
        [_] = queue.due(now)
        [since], given_up = queue.overdue(name, since, now)
        assert given_up is None
        found.append(since)
    assert found == list(islice(cron.ticks(start), 100))


def test_after_a_gap_a_tick_whose_jitter_is_not_over_is_not_run_before_its_time() -> None:
    plan = Plan(Cron("0 * * * *"), "last", jitter=timedelta(minutes=50))
    last, tick = utc("2026-01-01 05:00"), utc("2026-01-01 06:00")
    due_at = tick + plan.delay("j", "", tick)
    assert due_at - tick > timedelta(minutes=1)
    name, since, early = ("j", ""), utc("2026-01-01 00:00"), due_at - timedelta(seconds=1)
    queue = TickQueue({name: plan}, {name: since}, early)
    assert [each for each, _ in queue.due(early)] == [name]
    assert queue.overdue(name, since, early) == ([last], last - timedelta(hours=1))
    assert queue.next_at == due_at
    assert list(queue.due(due_at)) == [(name, tick)]
    assert queue.overdue(name, last, due_at) == ([tick], None)


@pytest.mark.parametrize("length", ["999999 days", "999999999 days"])
@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
def test_a_length_of_time_beyond_the_calendar_means_for_ever(catch_up: CatchUp, length: str) -> None:
    app = pgonce.App()
    given = app.job("j", cron="0 * * * *", catch_up=catch_up, catch_up_window=length, jitter=length, grace=length)
    given(lambda _: None)
    plan = app.jobs["j"].plan
    assert plan is not None
    run, given_up = plan.overdue(utc("2026-01-01 00:00"), utc("2026-01-01 03:00"))
    assert (len(run), given_up) == ((3, None) if catch_up == "all" else (1, utc("2026-01-01 02:00")))
    queue = TickQueue({("j", ""): plan}, {("j", ""): utc("2026-01-01 00:00")}, utc("2026-01-01 00:00"))
    assert len(list(queue.due(utc("2026-01-01 03:00")))) == 1


def test_a_job_whose_next_tick_cannot_be_found_is_looked_at_again_and_keeps_no_other_from_its_own() -> None:
    class Faulty(Cron):
        failing = False

        def after(self, moment: datetime) -> datetime | None:
            if Faulty.failing:
                raise MemoryError
            return super().after(moment)

    plans = {("faulty", ""): Plan(Faulty("* * * * *")), ("other", ""): Plan(Cron("* * * * *"))}
    queue = TickQueue(plans, {}, utc("2026-01-01 00:00:30"))
    seen, now = [], utc("2026-01-01 00:01")
    Faulty.failing = True
    with pytest.raises(MemoryError):
        seen += [name for name, _ in queue.due(now)]
    Faulty.failing = False
    seen += [name for name, _ in queue.due(now)]
    assert seen == [("other", "")]
    assert [name for name, _ in queue.due(now + timedelta(minutes=1))] == [("faulty", ""), ("other", "")]


@pytest.mark.parametrize(
    ("alias", "fields"),
    [
        ("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@midnight", "0 0 * * *"), ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"), ("@yearly", "0 0 1 1 *"), ("@annually", "0 0 1 1 *"),
    ],
)  # fmt: skip
def test_a_name_for_a_schedule_ticks_as_its_fields_do_in_every_zone(alias: str, fields: str) -> None:
    for zone in ("UTC", NEW_YORK):
        start = utc("2026-03-01")
        named, written = (islice(Cron(each, zone).ticks(start), 40) for each in (alias, fields))
        assert list(named) == list(written)


@given(st.integers(1, 10_000_000), st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_an_interval_ticks_on_its_multiples_wherever_one_begins(seconds: int, offset: int, span: int) -> None:
    every = Every.read(timedelta(seconds=seconds))
    assert read_schedule(every.expression) == every
    start = utc("2026-01-01") + timedelta(seconds=offset)
    first, second = islice(every.ticks(start), 2)
    assert timedelta() < first - start <= every.length
    assert second - first == every.length
    assert (first - utc("2000-01-03")) % every.length == timedelta()
    until = start + timedelta(seconds=span)
    if span < 1000 * seconds:
        between = every.between(start, until)
        assert every.last(start, until) == (between[-1] if between else None)
    assert every.after(start) == first


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("*/90 * * * *", "*/90 in the field minute matches only 0"),
        ("*/60 * * * *", "*/60 in the field minute matches only 0"),
        ("*/7 * * * *", "*/7 in the field minute begins anew at 0: the last step is 4 minutes long"),
        ("0 */36 * * *", "*/36 in the field hour matches only 0"),
        ("0 */5 * * *", "the last step is 4 hours long"),
        ("0,*/90 * * * *", "*/90 in the field minute"),
        ("0 0 1 */13 *", "*/13 in the field month matches only 1"),
        ("0-30/90 * * * *", "0-30/90 in the field minute matches only 0: 0 + 90 is beyond 30"),
        ("5/90 * * * *", "5/90 in the field minute matches only 5: 5 + 90 is beyond 59"),
        ("0-59/7 * * * *", "0-59/7 in the field minute begins anew at 0: the last step is 4 minutes long"),
        ("*/15 */2 * * *", None),
        ("* * * * *", None),
        ("0-30/7 * * * *", None),
        ("5/20 1-5/2 1,15 * mon-fri", None),
        ("0 0 */2 * *", None),
        ("@hourly", None),
    ],
)
def test_a_step_that_does_not_divide_its_range_is_warned_of_where_the_job_is_registered(
    expression: str, says: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    pgonce.App().job("j", cron=expression)
    assert (says or "in the field") in caplog.text if says else "in the field" not in caplog.text


def test_what_a_schedule_looks_ahead_is_five_minutes_and_one_tick_at_least() -> None:
    now = utc("2026-01-01 00:00")
    assert upcoming(Cron("0 6 * * *"), now) == [utc("2026-01-01 06:00")]
    assert upcoming(Cron("* * * * *"), now) == [now + timedelta(minutes=n) for n in range(1, 6)]
    assert len(upcoming(Every.read("1 s"), now)) == 40
