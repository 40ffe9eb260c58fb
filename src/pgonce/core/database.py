"""Finding the database's URL, checking it, and opening connection pools."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgonce.core import execute_async
from pgonce.core.call import Call
from pgonce.core.concurrency import time_limit
from pgonce.core.concurrency_async import running_loop
from pgonce.core.environment import DATABASE_URL_FROM
from pgonce.core.execute import Pool, connection, execute, own_transaction, run
from pgonce.core.pool import ForkablePool
from pgonce.errors import READ_ONLY, DatabaseUnavailable, InvalidArgument, translate

T = TypeVar("T")

# Behind a transaction pooler the next transaction may run on another server process, which does not have the prepared
# statements of the one before. So statements are prepared only after `_is_direct` has found that there is no pooler.
# TCP keepalives end a connection to an unreachable peer after 30 + 3 * 10 s; the kernel's default is two hours. None
# are sent while a statement is not acknowledged: tcp_user_timeout ends that wait, by default in a quarter of an hour.
CONNECTION = {
    "autocommit": True,
    "prepare_threshold": None,
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "pgonce",
    "client_encoding": "UTF8",
}

_LIMITS_OF_NETWORK = {name for name in CONNECTION if name.endswith("_timeout") or name.startswith("keepalives")}

TIMEOUT = 10
"""Seconds to wait for a free connection. Stripe waits about 10 to 20 s for an answer.

Also the pool's reconnect timeout. A pool retries a lost connection after 1, 2, 4 … seconds, by default for 5 minutes,
and a waiting caller does not make it retry earlier: with that default, 135 s without a database became 250 s without
alerts. After this timeout the pool stops retrying, and the next request for a connection starts a new attempt.
"""


def find(given: str | None = None) -> str:
    """The database's URL: ``given``, else PGONCE_DATABASE_URL, else DATABASE_URL, else that of the embedded server.

    Raises:
        DatabaseUnavailable: there is no URL and the embedded server is not installed or does not start.
    """
    if given is not None:
        check_text(given)
    found = (given, os.environ.get("PGONCE_DATABASE_URL"), os.environ.get("DATABASE_URL"))
    # a file or a Kubernetes secret ends with a line break, which would belong to the database's name
    url = next((stripped for each in found if each and (stripped := each.strip())), None)
    if url:
        return url
    from pgonce.core import embedded  # it needs six modules that no other database needs

    return embedded.start().url


def connect(url: str) -> Connection[Any]:
    """A connection for a command, with the settings of a pool's: a database, role or machine may have another encoding.

    Raises:
        psycopg.OperationalError: there is none.
    """
    conn = psycopg.connect(url, **_options(url))
    # of two migrates the second has to see what the first has done, whatever default_transaction_isolation says
    conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return conn


def check(url: str) -> str:
    """Connect once and return "database on host", without user and password.

    Raises:
        DatabaseUnavailable: with the server's reason. A pool would report only its own timeout.
        InvalidArgument: ``url`` cannot be read. The message does not quote it, because it may contain a password.
    """
    check_url(url)
    authority, path, _ = _parts(url)
    try:
        with connect(url) as conn:
            return f"{conn.info.dbname} on {conn.info.host or 'this machine'}"
    except psycopg.ProgrammingError as error:  # psycopg reads connect_timeout itself
        raise InvalidArgument(f"the database URL cannot be used: {error}") from None
    except psycopg.OperationalError as error:
        if "@" in path:  # a database's name may contain an @, but this one cannot be reached
            raise InvalidArgument(UNENCODED) from None
        if "session is read-only" in str(error):
            raise DatabaseUnavailable(f"{READ_ONLY}; to read from it add target_session_attrs=any") from error
        reason = str(translate(error)).splitlines()[0]
        raise DatabaseUnavailable(f"{reason}; {_what_to_check(reason, authority, name_of(url))}") from error


def check_url(url: str) -> None:
    """Refuse what libpq cannot read as a URL. The message does not quote it, because it may contain a password.

    Raises:
        InvalidArgument: with what to write instead.
    """
    check_text(url)
    if placeholder := re.search(r"\[YOUR-PASSWORD\]|(?i:<(?:user|username|password|host|port|database)>)", url):
        raise InvalidArgument(f"the database URL still has the placeholder {placeholder[0]}: put your own there")
    # libpq would take the rest of the password as part of the host name and send it to a DNS server
    if "@" in _parts(url)[0]:
        raise InvalidArgument(UNENCODED)
    try:
        found = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise InvalidArgument(_unreadable(url, str(error))) from None
    port = str(found.get("port") or "")
    if re.fullmatch(r"[\da-fA-F]*(:[\da-fA-F]*)+", port):
        raise InvalidArgument("the database URL has an IPv6 address without brackets: write it as [::1]:5432")
    if not re.fullmatch(r"[\d,\s]*", port):
        raise InvalidArgument(f"the database URL's port is not a number; {ENCODE}")


def check_text(url: object) -> None:
    """Refuse anything but text as the URL, such as the None of a variable that is not set.

    Raises:
        InvalidArgument: it is something else. It is not quoted.
    """
    if not isinstance(url, str):
        kind = "None: is DATABASE_URL set?" if url is None else f"a {type(url).__name__}: pass postgresql://..."
        raise InvalidArgument(f"the database URL is {kind}")


def name_of(url: str) -> str:
    """What a message calls this URL: the variable that has it, or "the database URL" if it was given otherwise."""
    given = os.environ.get("PGONCE_DATABASE_URL", ""), os.environ.get("DATABASE_URL", "")
    if given[0].strip() == url.strip():
        return os.environ.get(DATABASE_URL_FROM, "PGONCE_DATABASE_URL")
    return "DATABASE_URL" if given[1].strip() == url.strip() else "the database URL"


def _what_to_check(reason: str, authority: str, name: str) -> str:
    if "FATAL:" in reason or "invalid" in reason:  # the server has answered, or libpq has not asked it
        return f"check {name}"
    if re.match(r"db\.\w+\.supabase\.co\b", authority):
        return "Supabase's direct address is IPv6 alone: from an IPv4 network use the URL of its session pooler"
    return f"check {name}, and that the server runs"


ENCODE = "in the password write @ : / # ? and % as %40 %3A %2F %23 %3F and %25"
UNENCODED = f"the database URL has an @ where none belongs: {ENCODE}"


def _parts(url: str) -> tuple[str, str, str]:
    """Host and port, path, and parameters of a URL, split as libpq does it. All are empty if it is not a URL."""
    authority, _, path = url.partition("://")[2].partition("/")
    user, at, host = authority.partition("@")
    host, _, early = (host if at else user).partition("?")
    path, _, parameters = path.partition("?")
    return host, path, early or parameters


def _unreadable(url: str, error: str) -> str:
    """Describe why libpq cannot read the URL. The text quotes only the wrong part, because others may be secret."""
    scheme, is_url, _ = url.partition("://")
    driver = re.fullmatch(r"(postgres(?:ql)?)(\+\w+)", scheme)
    if is_url and driver:
        return f"the database URL's scheme is SQLAlchemy's: drop {driver[2]}, write {driver[1]}://"
    if is_url and "@" in "".join(_parts(url)):
        return UNENCODED
    if is_url and (misread := _misread(error)):
        return f"the database URL{misread}"
    write = "write postgresql://user:password@host:5432/name"
    if url[:1] in {'"', "'"}:
        return "the database URL is in quotation marks, which an env file of docker keeps: take them out"
    if url.startswith("$"):
        return f"the database URL begins with $, so its variable was not replaced: {write}"
    if assigned := re.match(r"(?:export\s+)?([A-Z_]+)=", url):
        return f"the database URL begins with {assigned[1]}=: give what stands after it"
    if url.startswith("psql "):
        return "the database URL is a command of psql: give the URL in it"
    if is_url and scheme.lower() in {"postgres", "postgresql"}:
        return f"the database URL begins with {scheme}://: {write}"
    if url.startswith("jdbc:"):
        return f"the database URL is JDBC's: {write}"
    if is_url and re.fullmatch(r"[a-z][a-z0-9]*", scheme) and not scheme.startswith("postgres"):
        return f"the database URL begins with {scheme}://, and pgonce needs PostgreSQL: {write}"
    return f"the database URL cannot be read: {write}"


def _misread(error: str) -> str:
    """What libpq does not understand in something that is a URL; empty if it is something else."""
    if "unexpected spaces" in error:
        return " has a space in it: write it as %20, or take it out"
    if "percent-encoded" in error:
        return f" has a % that encodes nothing: {ENCODE}"
    parameter = re.search(r'URI query parameter: "(\w+)"$', error.strip())
    if parameter is None:
        return ""
    if "extra key/value separator" in error:
        return f" has a second = in the parameter {parameter[1]}: write it as %3D"
    return (  # Prisma needs some, as pgbouncer=true, in the DATABASE_URL that it shares
        f": PostgreSQL knows no parameter {parameter[1]}: take it out, or set PGONCE_DATABASE_URL without it"
    )


_opened: WeakSet[object] = WeakSet()
IDLE = 15.0
"""Seconds after which a pool closes a connection that it has not needed; psycopg's default is ten minutes."""


def open_pool(url: str, size: int = 10, *, least: int = 1, patience: float = 0.0) -> ConnectionPool[Connection[Any]]:
    """An open pool of up to ``size`` connections with the settings that pgonce needs.

    It may be opened before a fork: a forked child that uses it gets connections of its own.

    Args:
        url: the database.
        size: how many connections at most.
        least: how many it keeps open while nobody uses it.
        patience: seconds to wait for a connection that is in use before another one is opened.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    check(url)
    pool = ForkablePool(
        url, kwargs=_options(url), configure=_configure, min_size=least, max_size=size, open=True, timeout=TIMEOUT,
        max_idle=IDLE, reconnect_timeout=TIMEOUT, name="pgonce", patience=patience,
    )  # fmt: skip
    with _translate_pool_timeout():
        pool.wait(TIMEOUT)
    _opened.add(pool)
    return pool


async def open_async_pool(url: str, size: int = 10) -> AsyncConnectionPool[AsyncConnection[Any]]:
    """``open_pool`` for the asynchronous bindings.

    Raises:
        DatabaseUnavailable: the database cannot be reached.
    """
    running_loop()
    await asyncio.to_thread(check, url)
    pool = AsyncConnectionPool[AsyncConnection[Any]](
        url, kwargs=_options(url), configure=_configure_async, min_size=1, max_size=size, open=False, timeout=TIMEOUT,
        max_idle=IDLE, reconnect_timeout=TIMEOUT, name="pgonce",
    )  # fmt: skip
    await pool.open()
    with _translate_pool_timeout():
        await pool.wait(TIMEOUT)
    _opened.add(pool)
    return pool


def is_own(pool: object) -> bool:
    """Whether the pool was opened here: its connections have no settings of the application's."""
    return pool in _opened


@contextmanager
def _translate_pool_timeout() -> Iterator[None]:
    """Raise the timeout of a wait for a pool's first connection as DatabaseUnavailable.

    The callers wait for the first connection, because a pool opens a second one if it is asked before the first is
    ready. An import then used both in turns. Each server process had to load the table and its index into its own
    cache, which took 3 % of the time of a load.
    """
    try:
        yield
    except PoolTimeout as error:
        raise translate(error) from error


def _options(url: str) -> dict[str, Any]:
    """The settings of a connection. Unless the URL says otherwise, the server must accept writes, and the limits of the
    network are those above.

    After a switchover the demoted primary still accepts connections, and every write there fails. With several hosts in
    the URL libpq then tries the next one. ``target_session_attrs=any`` in the URL allows reading from a standby.
    """
    given = conninfo_to_dict(url)
    options = {name: each for name, each in CONNECTION.items() if name not in given or name not in _LIMITS_OF_NETWORK}
    if "target_session_attrs" not in url and "PGTARGETSESSIONATTRS" not in os.environ:
        options["target_session_attrs"] = "read-write"
    return options


PREPARE_AFTER = 3
"""Uses of a statement before it is prepared, on a direct connection. The server can then reuse its plan."""
_PID = "select pg_backend_pid()"


def _configure(conn: Connection[Any]) -> None:
    if _is_direct(conn, run(conn, _PID)):
        conn.prepare_threshold = PREPARE_AFTER


async def _configure_async(conn: AsyncConnection[Any]) -> None:
    if _is_direct(conn, await execute_async.run(conn, _PID)):
        conn.prepare_threshold = PREPARE_AFTER


def is_pooled(conn: Connection[Any]) -> bool:
    """Whether a pooler stands between this client and the server."""
    return not _is_direct(conn, run(conn, _PID))


def _is_direct(conn: Connection[Any] | AsyncConnection[Any], served_by: bytes | None) -> bool:
    """Whether the connection has no pooler in between.

    The client gets a process id with which it can cancel. A pooler has to invent one, so it differs from the server's.
    """
    return served_by == str(conn.info.backend_pid).encode()


LOCK_TIMEOUT = "5s"
"""How long a call waits for a lock. A forgotten psql session can hold one for hours."""
_TIMEOUTS = (
    "select pg_catalog.set_config('lock_timeout', '{}', true), pg_catalog.set_config('statement_timeout', '60s', true)"
)
ANSWER_WITHIN = 75.0
"""Seconds to wait for an answer. The server should have ended the statement after 60 s; later it counts as hanging."""


def call_with_timeouts(pool: Pool, call: Call[T], schema: str) -> T:
    """Run ``call`` in a transaction of its own, with limits on the wait for a lock, the statement and the answer.

    For threads that must not be blocked. The timeouts are set for the transaction only: behind a transaction pooler a
    session's settings would stay and apply to another client.

    Raises:
        DatabaseUnavailable: the database cannot be reached, or does not answer.
        PgonceError: the SQL function refused the call; translated from its SQLSTATE.
        psycopg.Error: anything else; LockNotAvailable after `LOCK_TIMEOUT`.
    """
    try:
        with (
            connection(pool) as conn,
            time_limit(conn, ANSWER_WITHIN, lambda _: None),
            own_transaction(conn),
        ):
            run(conn, _TIMEOUTS.format(LOCK_TIMEOUT))
            return execute(conn, call, schema)
    except psycopg.Error as error:
        raise translate(error) from error
    except TimeoutError as error:
        raise DatabaseUnavailable(f"the database has not answered {call.function} for {ANSWER_WITHIN:g} s") from error
