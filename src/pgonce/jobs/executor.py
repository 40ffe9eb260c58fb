"""One run of a registered job, synchronous or not, in the thread that asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pgonce.core import database, event_loop
from pgonce.core.execute import Pool
from pgonce.errors import PgonceError
from pgonce.jobs.guard import Jobs
from pgonce.jobs.guard_async import AsyncJobs
from pgonce.jobs.registry import Job

log = logging.getLogger("pgonce")


class Performing:
    """Runs jobs; their failures are in the audit trail and in the log, and end nothing here.

    Args:
        url: the database; an asynchronous run has connections of its own, in the process's event loop.
        schema: where ``pgonce migrate`` put the tables.
    """

    def __init__(self, url: str, schema: str) -> None:
        self._url = url
        self._schema = schema

    def perform(self, pool: Pool, job: Job, on_start: Callable[[], None], **options: Any) -> None:
        """Run it; ``on_start`` is called as soon as the database has decided whether it runs.

        Raises:
            PgonceError: it could not be started, whatever the reason: there is no row of it, so it is still to be done.
        """
        started = False

        def begun() -> None:
            nonlocal started
            started = True
            on_start()

        try:
            if job.is_async:
                event_loop.background().run(self._perform_async(job, begun, options))
            else:
                Jobs(pool, schema=self._schema).perform(job, on_start=begun, **options)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if not started:
                raise PgonceError(f"job {job.name} could not be started: {reason}") from error
            log.warning("job %s failed: %s", job.name, reason)

    async def _perform_async(self, job: Job, on_start: Callable[[], None], options: dict[str, Any]) -> None:
        async with await database.open_async_pool(self._url, 4) as pool:
            await AsyncJobs(pool, schema=self._schema).perform(job, on_start=on_start, **options)
