"""Mistakes of new users, and the error for each: at registration, not at the first event."""

# ruff: noqa: ARG005, E501, ERA001 -- a table of mistakes, one a line
from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool, NullConnectionPool

import pgonce
from pgonce.webhooks.glob import overlap
from tests.pure.mistakes import check_refusal

app = pgonce.App()
SYNC_POOL: ConnectionPool[Any] = ConnectionPool("", open=False)
ASYNC_POOL: AsyncConnectionPool[Any] = AsyncConnectionPool("", open=False)
Register = Callable[[Any], object]


def handler(event: Any, tx: Any) -> None: ...
async def async_handler(event: Any, tx: Any) -> None: ...
def one(event: Any) -> None: ...
async def async_one(event: Any) -> None: ...
def none() -> None: ...
def swapped(tx: Any, event: Any) -> None: ...
def three(event: Any, tx: Any, mailer: Any) -> None: ...
def keyword(event: Any, tx: Any, *, mailer: Any) -> None: ...
def method(self: Any, event: Any, tx: Any) -> None: ...
def yields(event: Any, tx: Any) -> Iterator[int]:
    yield 1


async def async_yields(event: Any, tx: Any) -> AsyncIterator[int]:
    yield 1


def run_job(run: Any) -> None: ...
def job_yields(run: Any) -> Iterator[int]:
    yield 1


def source(cursor: Any) -> Iterator[Any]:
    yield {}, {}


class Handler:
    def __init__(self, event: Any, tx: Any) -> None: ...


def result_of(function: Callable[..., Any]) -> Any:
    return function(1, 2)


def with_other_key(pattern: str, other: str) -> Any:
    app = pgonce.App()
    app.webhook(pattern, ordered=True)(handler)
    return app.webhook(other, ordered=True, key=one)(lambda event, tx: None)


def webhook(*args: Any, **options: Any) -> Register:
    return pgonce.App().webhook(*args, **options)


def batch(*args: Any, **options: Any) -> Register:
    return pgonce.App().webhook_batch(*args, **options)


def job(*args: Any, **options: Any) -> Register:
    return pgonce.App().job(*args, **options)


def seed(name: Any = "s", into: Any = "t", key: Any = ("id",), **options: Any) -> Register:
    return pgonce.App().seed(name, into=into, key=key, **options)


def rows(cursor: Any, partition: Any = None) -> list[Any]:
    return []


def two(*handlers: tuple[str, Any]) -> None:
    both = pgonce.App()
    for pattern, function in handlers:
        both.webhook(pattern)(function)


def again(kind: str) -> None:
    both = pgonce.App()
    for function in (run_job, functools.partial(run_job)) if kind == "job" else (source, source):
        both.job("nightly")(function) if kind == "job" else both.seed("psalms", into="t", key=["id"])(function)


# the mistake -> the line
MISTAKES: list[tuple[str, Callable[[], object], str]] = [
    # webhooks: the decorator
    ("@app.webhook", lambda: webhook(handler),
     '@app.webhook needs an event type: write @app.webhook("invoice.paid") above handler'),
    ("@app.webhook_batch", lambda: batch(handler),
     '@app.webhook_batch needs an event type: write @app.webhook_batch("invoice.paid") above handler'),
    ('@app.webhook("")', lambda: webhook(""),
     'an event type must not be empty: write @app.webhook("invoice.paid")'),
    ("@app.webhook(None)", lambda: webhook(None),
     'an event type must be text, not None: write @app.webhook("invoice.paid")'),
    ("@app.webhook(42)", lambda: webhook(42), "an event type must be text, not 42: "),
    ("@app.webhook([...])", lambda: webhook(["invoice.paid", "charge.failed"]),
     'an event type must be one text, not a list: write @app.webhook("invoice.paid") once for each'),
    ("@app.webhook({...})", lambda: webhook({"invoice.paid"}), "an event type must be one text, not a set: "),
    ('@app.webhook("invoice.paid ")', lambda: webhook("invoice.paid "),
     "an event type 'invoice.paid ' begins or ends with a space: "),
    ('@app.webhook("\\n")', lambda: webhook("\n"), "an event type '\\n' begins or ends with a space: "),
    ("timeout=30", lambda: webhook("a", timeout=30),
     'the timeout for a is 30, without a unit: write "30 seconds" or timedelta(seconds=30)'),
    ("timeout=0.5", lambda: webhook("a", timeout=0.5), "the timeout for a is 0.5, without a unit: "),
    ('timeout="soon"', lambda: webhook("a", timeout="soon"), 'the timeout for a "soon" is not a length of time: '),
    ('timeout="-1 s"', lambda: webhook("a", timeout="-1 s"), 'the timeout for a "-1 s" is not a length of time: '),
    ("timeout=timedelta()", lambda: webhook("a", timeout=timedelta()), "the timeout for a must be longer than zero"),
    ("timeout=True", lambda: webhook("a", timeout=True), "the timeout for a must be a length of time, not True: "),
    ("timeout=[]", lambda: webhook("a", timeout=[]), "the timeout for a must be a length of time, not []: "),
    ('transaction="mine"', lambda: webhook("a", transaction="mine"),
     "transaction of a is \"shared\" or \"own\", not 'mine'"),
    ('key="tenant"', lambda: webhook("a", ordered=True, key="tenant"),
     "key of a must be a function of the event, not 'tenant': key=lambda event: ..."),
    ("key= without ordered", lambda: webhook("a", key=str),
     "key of a does nothing by itself: add ordered=True or coalesce=True"),
    ('ordered="customer"', lambda: webhook("a", ordered="customer"),
     "ordered of a must be True or False, not 'customer': to order by something else, pass ordered=True, key=lambda event: "),
    ("ordered=1", lambda: webhook("a", ordered=1), "ordered of a must be True or False, not 1"),
    ('coalesce="yes"', lambda: webhook("a", coalesce="yes"), "coalesce of a must be True or False, not 'yes': "),
    ('@app.webhook("a\\x00b")', lambda: webhook("a\0b"), "an event type 'a\\x00b' holds a line break or another control character: "),
    ('"invoice.paid,charge.failed"', lambda: webhook("invoice.paid,charge.failed"),
     "'invoice.paid,charge.failed' is not an event type: write @app.webhook(\"invoice.paid\") once for each type"),
    ('"invoice.paid|charge.failed"', lambda: webhook("invoice.paid|charge.failed"), "is not an event type: write @app.webhook("),
    ('"invoice.{paid,voided}"', lambda: batch("invoice.{paid,voided}"), "is not an event type: write @app.webhook_batch("),
    ('"^invoice"', lambda: webhook("^invoice"),
     '\'^invoice\' is not an event type: @app.webhook takes a glob, such as "customer.subscription.*"'),
    ('"invoice\\\\.paid"', lambda: webhook("invoice\\.paid"), "takes a glob, such as "),
    ('"a.[!]"', lambda: webhook("a.[!]"), "'a.[!]' has brackets that are not a set of characters: write [abc] or [!a-z]"),
    ('"a.[z-a]"', lambda: webhook("a.[z-a]"), "'a.[z-a]' has brackets that are not a set "),
    ('"a.[[:x:]]"', lambda: webhook("a.[[:x:]]"), "'a.[[:x:]]' has brackets that are not a set "),
    ('"a.[b"', lambda: batch("a.[b"), "'a.[b' has brackets that are not a set "),
    ('"customer.subscription.%"', lambda: webhook("customer.subscription.%"), "takes a glob, such as "),
    ("transaction=[]", lambda: webhook("a", transaction=[]), 'transaction of a is "shared" or "own", not []'),
    ("durable={}", lambda: webhook("a", durable={}), 'durable of a is "chain" or "each", not {}'),
    ("ordered=True, coalesce=True", lambda: webhook("a", ordered=True, coalesce=True),
     "a has ordered and coalesce: ordered=True handles every event, coalesce=True one of several"),
    ('coalesce=True, transaction="own"', lambda: webhook("a", coalesce=True, transaction="own"),
     'a has coalesce and transaction="own": it cannot leave events out in a transaction of yours'),
    ("key=lambda: ...", lambda: webhook("a", ordered=True, key=lambda: "x"),
     "the key of a, <lambda>, takes (), but is called with (event): write def function(event)"),
    ("key=handler", lambda: webhook("a", coalesce=True, key=handler), "the key of a, handler, takes (event: "),
    ("key=async def", lambda: webhook("a", ordered=True, key=async_one),
     "the key of a, async_one, is `async def`, and is called as a plain function: make it plain"),
    # webhooks: the function
    ("no function", lambda: webhook("a")("handler"), "the handler of a is 'handler', which is not a function"),
    ("None", lambda: webhook("a")(None), "the handler of a is None, which is not a function"),
    ("the call of a function", lambda: webhook("a")(result_of(handler)), "the handler of a is None, which is not a function"),
    ("a class", lambda: webhook("a")(Handler),
     "the handler of a, Handler, is a class: register a function or the method of an object"),
    ("def one(event)", lambda: webhook("invoice.paid")(one),
     "the handler of invoice.paid, one, takes (event: 'Any'), but is called with (event, tx): write def one(event, tx)"),
    ("def none()", lambda: webhook("a")(none),
     "the handler of a, none, takes (), but is called with (event, tx): write def none(event, tx)"),
    ("def three(event, tx, mailer)", lambda: webhook("a")(three), "but is called with (event, tx): write def three(event, tx)"),
    ("a required keyword", lambda: webhook("a")(keyword), "but is called with (event, tx): write def keyword(event, tx)"),
    ("def swapped(tx, event)", lambda: webhook("a")(swapped),
     "the handler of a, swapped, has its arguments in the wrong order: write def swapped(event, tx)"),
    ("a method in its class", lambda: webhook("a")(method),
     "but is called with (event, tx): register the method of an object"),
    ("lambda event: ...", lambda: webhook("a")(lambda event: None),
     "the handler of a, <lambda>, takes (event), but is called with (event, tx): write def function(event, tx)"),
    ("a generator", lambda: webhook("a")(yields), "the handler of a, yields, is a generator, whose body would never run: "),
    ("an async generator", lambda: webhook("a")(async_yields), "async_yields, is a generator, whose body would never run"),
    ('two arguments with transaction="own"', lambda: webhook("a", transaction="own")(handler),
     "but is called with (event): write def handler(event)"),
    ("a batch with one argument", lambda: batch("a")(one), "but is called with (events, tx): write def one(events, tx)"),
    ("arguments by keyword alone", lambda: webhook("a")(lambda *, event, tx: None),
     "takes (*, event, tx), but is called with (event, tx): write def function(event, tx)"),
    # webhooks: several handlers
    ("sync and async for one type", lambda: two(("a.b", handler), ("a.b", async_handler)),
     "handler (a.b) and async_handler (a.b) may get the same event: make both `async def`, or neither"),
    ("sync and async by a glob", lambda: two(("a.*", handler), ("a.b", async_handler)),
     "handler (a.*) and async_handler (a.b) may get the same event: "),
    ("sync and async by two globs", lambda: two(("a.*", async_handler), ("*.b", handler)),
     "async_handler (a.*) and handler (*.b) may get the same event: "),
    ("two keys of one event", lambda: with_other_key("a.*", "a.b"),
     "handler (a.*) and <lambda> (a.b) may get the same event, which has one place in an order: give both the same key= function"),
    ("one function twice", lambda: two(("a", handler), ("a", handler)), "handler handles a already: remove one decorator"),
    # jobs
    ("@app.job", lambda: job(run_job), '@app.job needs the job\'s name: write @app.job("stats_cache") above run_job'),
    ('@app.job("")', lambda: job(""), "the job's name must not be empty: "),
    ("@app.job(None)", lambda: job(None), "the job's name must be text, not None: "),
    ('@app.job(["a"])', lambda: job(["a"]), "the job's name must be one text, not a list: "),
    ('@app.job("a ")', lambda: job("a "), "the job's name 'a ' begins or ends with a space: "),
    ("def none()", lambda: job("j")(none),
     "the function of job j, none, takes (), but is called with (run): write def none(run)"),
    ("def handler(event, tx)", lambda: job("j")(handler), "but is called with (run): write def handler(run)"),
    ("a generator as a job", lambda: job("j")(job_yields), "job_yields, is a generator, whose body would never run"),
    ("a class as a job", lambda: job("j")(int), "the function of job j, int, is a class: "),
    ("window=300", lambda: job("j", window=300),
     'the window of job j is 300, without a unit: write "300 seconds" or timedelta(seconds=300)'),
    ("window=None", lambda: job("j", window=None), "the window of job j must be a length of time, not None: "),
    ('window="5"', lambda: job("j", window="5"), 'the window of job j "5" is not a length of time: '),
    ("backoff=60", lambda: job("j", backoff=60), "the backoff of job j is 60, without a unit: "),
    ("timeout=60 of a job", lambda: job("j", timeout=60), "the timeout of job j is 60, without a unit: "),
    ("retries=-1", lambda: job("j", retries=-1), "retries of job j must be a whole number of at least 0, not -1"),
    ('retries="3"', lambda: job("j", retries="3"), "retries of job j must be a whole number of at least 0, not '3'"),
    ("one name twice", lambda: again("job"), "there is a job 'nightly' already, run_job: give one another name"),
    ('cron="every day"', lambda: job("j", cron="every day"), 'cron "every day"'),
    ('timezone="Mars"', lambda: job("j", cron="0 3 * * *", timezone="Mars"), '"Mars"'),
    ('@app.job("a\\nb")', lambda: job("a\nb"), "the job's name 'a\\nb' holds a line break or another control character: "),
    ("cron=5", lambda: job("j", cron=5), 'cron of job j must be text, not 5: write cron="0 6 * * *"'),
    ('cron="@every 5m"', lambda: job("j", cron="@every 5m"), 'cron of job j is an interval: write every="5m"'),
    ("timezone=1", lambda: job("j", cron="0 6 * * *", timezone=1), "the timezone of job j must be text, not 1: "),
    ("timezone= without cron", lambda: job("j", timezone="Europe/Berlin"),
     'timezone of job j does nothing without cron: add cron="0 6 * * *", or leave it out'),
    ("timezone= with every", lambda: job("j", every="1 hour", timezone="Europe/Berlin"), "timezone of job j does nothing without cron"),
    ("catch_up= without a schedule", lambda: job("j", catch_up="all"),
     "catch_up of job j does nothing without a schedule: add cron= or every=, or leave it out"),
    ("jitter= without a schedule", lambda: job("j", jitter="5 s"), "jitter of job j does nothing without a schedule: "),
    ("key=3", lambda: job("j", key=3), "the key of job j must be text, not 3: "),
    ('slots="2"', lambda: job("j", slots="2"), "slots of job j must be a whole number of at least 1, not '2'"),
    ("catch_up=True", lambda: job("j", cron="@daily", catch_up=True), 'catch_up of job j is "none", "last" or "all", not True'),
    ("catch_up=[]", lambda: job("j", cron="@daily", catch_up=[]), 'catch_up of job j is "none", "last" or "all", not []'),
    ("catch_up_window= without a schedule", lambda: job("j", catch_up_window="2 days"),
     "catch_up_window of job j does nothing without a schedule: add cron= or every=, or leave it out"),
    ("grace= without a schedule", lambda: job("j", grace="1 hour"), "grace of job j does nothing without a schedule: "),
    ("backoff= without retries", lambda: job("j", backoff="5 minutes"),
     "backoff of job j does nothing without retries: add retries=3, or leave it out"),
    ("expect_grace= without expect_every", lambda: job("j", expect_grace="1 hour"),
     'expect_grace of job j does nothing without expect_every: add expect_every="1 day", or leave it out'),
    ("retries=10**10", lambda: job("j", retries=10**10), "retries of job j must be at most 2,147,483,647, not 10,000,000,000"),
    ("slots=1001", lambda: job("j", slots=1001), "slots of job j must be at most 1,000, not 1,001"),
    ("window= of a thousand years", lambda: job("j", window="365000 days"), "the window of job j must be at most 36,000 days"),
    ('backoff="2 days"', lambda: job("j", retries=1, backoff="2 days"), "the backoff of job j must be at most a day"),
    ('expect_every="0.5 s"', lambda: job("j", expect_every="0.5 s"), "expect_every of job j must be at least 1 s"),
    ("expect_every=timedelta.max", lambda: job("j", expect_every=timedelta.max), "expect_every of job j must be at most 36,000 days"),
    ("expect_grace=timedelta.max", lambda: job("j", expect_every="1 day", expect_grace=timedelta.max),
     "expect_grace of job j must be at most 36,000 days"),
    ('@jobs.job(slots="2")', lambda: pgonce.Jobs(SYNC_POOL).job("j", slots="2"),  # type: ignore[arg-type]
     "slots of job j must be a whole number of at least 1, not '2'"),
    ('key="a\\0"', lambda: job("j", key="a\0"), 'the key of job j must not hold the character NUL: write key="eu"'),
    ("@jobs.job(...) above async def", lambda: pgonce.Jobs(SYNC_POOL).job("j")(async_one),
     "async_one, is `async def`, and is called as a plain function: make it plain, or use the asynchronous class"),
    ("@jobs.job(...) above def none()", lambda: pgonce.Jobs(SYNC_POOL).job("j")(none),  # type: ignore[arg-type]
     "the function of job j, none, takes (), but is called with (run): write def none(run)"),
    ("@jobs.job(window=60)", lambda: pgonce.AsyncJobs(ASYNC_POOL).job("j", window=60),  # type: ignore[arg-type]
     "the window of job j is 60, without a unit: "),
    ("@jobs.job", lambda: pgonce.Jobs(SYNC_POOL).job(run_job), '@jobs.job needs the job\'s name: write @jobs.job("stats_cache") above run_job'),  # type: ignore[arg-type]
    # imports
    ("@app.seed", lambda: seed(source),
     '@app.seed needs the seed\'s name: write @app.seed("psalms") above source'),
    ('@app.seed("")', lambda: seed(""), "the seed's name must not be empty: "),
    ("@app.seed(None)", lambda: seed(None), "the seed's name must be text, not None: "),
    ('key="id"', lambda: seed(key="id")(rows), 'key="id" is one text: write key=["id"]'),
    ('key="book, chapter"', lambda: seed(key="book, chapter")(rows),
     'key="book, chapter" is one text: write key=["book", "chapter"]'),
    ("key=[] to update by", lambda: seed(key=[], on_conflict="update")(rows), "on_conflict='update' needs a key"),
    ("key=None", lambda: seed(key=None)(rows), 'key must be a list of column names, not None: write key=["id"]'),
    ("key=[1]", lambda: seed(key=[1])(rows), "key must be a list of column names, not [1]: "),
    ('columns="id,name"', lambda: seed(columns="id,name")(rows), 'columns="id,name" is one text: write columns=["id", "name"]'),
    ("into=None", lambda: seed(into=None)(rows), "into of seed s must be the name of a table, not None: "),
    ('into=""', lambda: seed(into="")(rows), "into of seed s must be the name of a table, not '': "),
    ("batch_size=0", lambda: seed(batch_size=0)(rows), "the batch size of seed s must be a whole number of at least 1, not 0"),
    ('on_conflict="ignore"', lambda: seed(on_conflict="ignore")(rows),
     "on_conflict of seed s is \"skip\", \"update\" or \"fail\", not 'ignore'"),
    ("max_rejects=-1", lambda: seed(max_rejects=-1)(rows), "max_rejects of seed s must be a whole number of at least 0, not -1"),
    ('max_rejects="1"', lambda: seed(max_rejects="1")(rows), "max_rejects of seed s must be a whole number of at least 0, not '1'"),
    ('partitions="abc"', lambda: seed(partitions="abc")(rows),
     "partitions of seed s must be a list, or a function that returns one, not 'abc'"),
    ("partitions=3", lambda: seed(partitions=3)(rows), "partitions of seed s must be a list, "),
    ('fingerprint="abc"', lambda: seed(fingerprint="abc")(rows), "fingerprint of seed s must be a function of the cursor, "),
    ("def none() as a source", lambda: seed()(none),
     "the source of seed s, none, takes (), but is called with (cursor): write def none(cursor)"),
    ("the rows themselves", lambda: seed()([1, 2]), "the source of seed s is [1, 2], which is not a function"),
    ("partitions without their argument", lambda: seed(partitions=["a"])(source),
     "but is called with (cursor, partition=...): write def source(cursor, partition=...)"),
    ("a seed's name twice", lambda: again("seed"), "there is a seed 'psalms' already, source: give one another name"),
    ("no table", lambda: pgonce.App().seed("s", key=["id"]),
     'seed s has no table: write into="chapters", or pass the registered one: app.get_seed("s")'),
    ("batchsize=100", lambda: seed(batchsize=100), "seed s has no option batchsize: did you mean batch_size?"),
    ("table=", lambda: seed(table="t"), "seed s has no option table: use allow_unlogged, batch_size, columns, "),
    ('into="a.b.c"', lambda: seed(into="a.b.c")(rows), "into of seed s is 'a.b.c': write the table, or schema.table, "),
    ("into='\"T\"'", lambda: seed(into='"T"')(rows), "without quotation marks or spaces around it"),
    ('into="public."', lambda: seed(into="public.")(rows), "into of seed s is 'public.': "),
    ("key= with a name twice", lambda: seed(key=["id", "id"])(rows), "key names id twice: name each column once"),
    ('key=[""]', lambda: seed(key=[""])(rows), 'key has an empty name: write key=["id"]'),
    ('total="many"', lambda: seed(total="many")(rows), "total of seed s must be a whole number of at least 0, not 'many'"),
    ('set_sequences="no"', lambda: seed(set_sequences="no")(rows), "set_sequences of seed s must be True or False, not 'no'"),
    ('allow_unlogged="no"', lambda: seed(allow_unlogged="no")(rows), "allow_unlogged of seed s must be True or False, "),
    ("on_conflict=[]", lambda: seed(on_conflict=[])(rows), 'on_conflict of seed s is "skip", "update" or "fail", not []'),
    ("partitions=[]", lambda: seed(partitions=[])(rows),
     "partitions of seed s is empty, so nothing would be imported: name a part, or leave it out"),
    ("a partition twice", lambda: seed(partitions=["a", "a"])(rows), "partitions of seed s has 'a' twice: name each part once"),
    ("partitions=[timedelta()]", lambda: seed(partitions=[timedelta()])(rows), "partitions of seed s must be JSON values, such as text: "),
    ("fingerprint=none", lambda: seed(fingerprint=none)(rows), "the fingerprint of seed s, none, takes (), but is called with (cursor): "),
    ("async def as a source", lambda: seed()(async_one),
     "the source of seed s, async_one, is `async def` and never yields: yield (row, cursor)"),
    ('seeds.run("psalms")', lambda: pgonce.Seeds(SYNC_POOL).run("psalms"),
     'seed psalms has no table: write into="chapters", or pass the registered one: app.get_seed("psalms")'),
    ('seeds.run("psalms", into="chapters")', lambda: pgonce.Seeds(SYNC_POOL).run("psalms", into="chapters"),
     'seed psalms has no source: pass app.get_seed("psalms")'),
    ("seeds.run(source)", lambda: pgonce.Seeds(SYNC_POOL).run(source),  # type: ignore[arg-type]
     'pass a Seed or its name, not function: app.get_seed("psalms")'),
    ("seeds.run(app)", lambda: pgonce.Seeds(SYNC_POOL).run(app), "pass a Seed or its name, not App: "),  # type: ignore[arg-type]
    ("seeds.run(seed, tabel=)", lambda: pgonce.Seeds(SYNC_POOL).run(pgonce.Seed("s", source, "t"), itno="t"),  # type: ignore[call-arg]
     "seed s has no option itno: did you mean into?"),
    # pools
    ('Webhooks("postgresql://...")', lambda: pgonce.Webhooks("postgresql://me:secret@h/d"),  # type: ignore[arg-type]
     "Webhooks needs a pool, not a URL: Webhooks(database.open_pool(url))"),
    ('AsyncJobs("postgresql://...")', lambda: pgonce.AsyncJobs("postgresql://me:secret@h/d"),  # type: ignore[arg-type]
     "AsyncJobs needs a pool, not a URL: AsyncJobs(await database.open_async_pool(url))"),
    ("Jobs(None)", lambda: pgonce.Jobs(None),  # type: ignore[arg-type]
     "Jobs needs a ConnectionPool, not a NoneType: Jobs(database.open_pool(url))"),
    ("Seeds(app)", lambda: pgonce.Seeds(app), "Seeds needs a ConnectionPool, not an App: "),  # type: ignore[arg-type]
    ("Webhooks(async pool)", lambda: pgonce.Webhooks(ASYNC_POOL),  # type: ignore[arg-type]
     "Webhooks needs a ConnectionPool, not an AsyncConnectionPool: use AsyncWebhooks, or "),
    ("Jobs(async pool)", lambda: pgonce.Jobs(ASYNC_POOL),  # type: ignore[arg-type]
     "Jobs needs a ConnectionPool, not an AsyncConnectionPool: use AsyncJobs, or Jobs(database.open_pool(url))"),
    ("Seeds(async pool)", lambda: pgonce.Seeds(ASYNC_POOL), "use AsyncSeeds, or "),  # type: ignore[arg-type]
    ("AsyncWebhooks(sync pool)", lambda: pgonce.AsyncWebhooks(SYNC_POOL),  # type: ignore[arg-type]
     "AsyncWebhooks needs an AsyncConnectionPool, not a ConnectionPool: use Webhooks, or "),
    ("AsyncJobs under trio", lambda: pgonce.AsyncJobs(ASYNC_POOL).run("j").__aenter__().send(None),
     "need asyncio, and it does not run here: under trio, use the others in a thread"),
    ("open_async_pool under trio", lambda: pgonce.database.open_async_pool("postgresql://h/d").send(None),
     "need asyncio, and it does not run here"),
    ("AsyncJobs(sync pool)", lambda: pgonce.AsyncJobs(SYNC_POOL), "use Jobs, or "),  # type: ignore[arg-type]
    ("AsyncSeeds(sync pool)", lambda: pgonce.AsyncSeeds(SYNC_POOL), "use Seeds, or "),  # type: ignore[arg-type]
    ("a connection", lambda: pgonce.Jobs(psycopg.Connection.__new__(psycopg.Connection)),  # type: ignore[arg-type]
     "Jobs needs a pool, not a single connection: "),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "make", "line"), MISTAKES, ids=[each[0] for each in MISTAKES])
def test_a_mistake_is_refused_with_one_line(mistake: str, make: Callable[[], object], line: str) -> None:
    check_refusal(make, line, "secret")


def test_an_app_takes_no_arguments() -> None:
    with pytest.raises(TypeError):
        pgonce.App("shop")  # type: ignore[call-arg]


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that passes arguments which the caller does not pass, as for dependency injection."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(*args, mailer="mailer", **options)

    return call


class Handlers:
    def shared(self, event: Any, tx: Any) -> None: ...
    @staticmethod
    def static(event: Any, tx: Any) -> None: ...
    @classmethod
    def of_class(cls, event: Any, tx: Any) -> None: ...
    def __call__(self, event: Any, tx: Any) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        handler, async_handler, wrapped(three), functools.partial(three, mailer=1), Handlers().shared, Handlers.static,
        Handlers.of_class, Handlers(), lambda *args: None, lambda event, tx=None, more=1: None, lambda e, t: None, max,
    ],
)  # fmt: skip
def test_whatever_can_be_called_as_a_handler_is_accepted(function: Any) -> None:
    webhook("invoice.paid")(function)


def test_handlers_that_share_no_event_may_be_of_either_kind() -> None:
    two(("customer.*", handler), ("invoice.*", async_handler), ("charge.failed", handler), ("charge.faile?", handler))


@pytest.mark.parametrize(
    "make",
    [
        lambda: pgonce.Jobs(NullConnectionPool("", open=False)),
        lambda: pgonce.AsyncJobs(AsyncNullConnectionPool("", open=False)),
        lambda: seed(key=("a", "b"), columns=["a"], partitions=lambda: ["x"])(lambda cursor, partition: []),
        lambda: seed(partitions=[1, 2])(functools.partial(lambda more, cursor, partition: [], 1)),
        lambda: seed()(source),
        lambda: job("j", window=timedelta(seconds=5), retries=0)(run_job),
    ],
)
def test_what_is_right_is_accepted(make: Callable[[], object]) -> None:
    make()


GLOBS = st.text("ab.*?", max_size=6)


@given(GLOBS, GLOBS, st.text("ab.", max_size=5))
def test_globs_that_match_one_type_overlap(first: str, second: str, event_type: str) -> None:
    if fnmatchcase(event_type, first) and fnmatchcase(event_type, second):
        assert overlap(first, second)


@given(GLOBS, GLOBS)
def test_globs_overlap_only_if_some_type_matches_both(first: str, second: str) -> None:
    assert overlap(first, second) == overlap(second, first)
    types: Sequence[str] = ["".join(parts) for n in range(4) for parts in _words(n)]
    if len(first) <= 3 and "*" not in first:
        both = any(fnmatchcase(each, first) and fnmatchcase(each, second) for each in types)
        assert overlap(first, second) == both


def _words(length: int) -> list[tuple[str, ...]]:
    words: list[tuple[str, ...]] = [()]
    for _ in range(length):
        words = [(*word, sign) for word in words for sign in "ab."]
    return words
