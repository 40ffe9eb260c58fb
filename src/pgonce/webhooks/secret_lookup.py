"""Asks the application's function for the signing secrets, within limits: it may read a file or call a service."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from pgonce.webhooks import stripe
from pgonce.webhooks.responses import NoSecrets

SECONDS = 5.0
"""Seconds for a lookup, and for the wait until it may begin. Stripe waits for about 20 s for the answer."""
AT_ONCE = 32
"""Lookups at the same time. One that never ends takes a place for good if the function is a plain one."""


class SecretLookup:
    """The lookups of one receiver.

    Args:
        function: plain or async. A plain one is called in a thread, so that it delays no other delivery. The thread is
            a daemon: one that hangs does not keep the process from ending.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._places = asyncio.Semaphore(AT_ONCE)

    async def find(self) -> tuple[str, ...]:
        """The secrets.

        Raises:
            NoSecrets: the function has not returned in time.
            Exception: what it raises.
            InvalidArgument: what it returns are not signing secrets.
        """
        try:
            async with asyncio.timeout(SECONDS):
                await self._places.acquire()
            lookup = asyncio.create_task(self._call())
            lookup.add_done_callback(self._end)
            done, _ = await asyncio.wait([lookup], timeout=SECONDS)
            if not done:
                raise TimeoutError
            return stripe.signing_secrets(lookup.result())
        except TimeoutError as error:
            raise NoSecrets(f"the function for the webhook secrets did not return within {SECONDS:g} s") from error

    def _end(self, lookup: asyncio.Task[Any]) -> None:
        self._places.release()
        if not lookup.cancelled():
            lookup.exception()  # read, or asyncio would log the text of an error that comes too late

    async def _call(self) -> Any:
        is_async = inspect.iscoroutinefunction(self._function)
        found = self._function() if is_async else await _in_daemon(self._function)
        if inspect.isawaitable(found):  # also of a lambda around an async function, or an object with async __call__
            async with asyncio.timeout(SECONDS):
                found = await found
        return found


async def _in_daemon(function: Callable[[], Any]) -> Any:
    """The result of ``function()``, called in a daemon thread with the context of this task."""
    loop, context = asyncio.get_running_loop(), copy_context()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def run() -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = context.run(function), None
        except BaseException as error:  # noqa: BLE001 -- raised again below
            outcome = None, error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(ended.set_result, outcome)

    threading.Thread(target=run, name="pgonce secrets", daemon=True).start()
    found, error = await ended
    if error is not None:
        raise error
    return found
