"""What a thread or task is at work on: its ids, for log lines, and a span, where OpenTelemetry is installed.

Only OpenTelemetry's API is used, which does nothing until the application configures an SDK. Nothing of an event's or a
row's content becomes an attribute, and of an exception only its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from functools import cache
from types import TracebackType
from typing import Any, Literal

Attributes = Mapping[str, str | int]

_current: ContextVar[Mapping[str, str]] = ContextVar("pgonce", default={})  # noqa: B039 -- never changed in place


def current_ids() -> Mapping[str, str]:
    """The ids of what this thread or task is at work on, such as ``event_id``; empty outside of handlers and jobs."""
    return _current.get()


class Work:
    """The span of a piece of work; without OpenTelemetry it does nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def failed(self, error: BaseException) -> None:
        """It has ended with this error. Its text may be a payload and is not recorded."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            kind = type(error)
            self._span.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
            self._span.set_status(Status(StatusCode.ERROR, kind.__qualname__))

    @property
    def traceparent(self) -> str | None:
        """The span as text, to link to it from elsewhere; None if nobody records it."""
        if self._span is None or not self._span.is_recording():
            return None
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


_NOTHING = Work()


class working:  # noqa: N801 -- a function to its callers; contextlib's generators cost 2 us more for each event
    """A piece of work: its ids are those of this thread or task meanwhile, and it is a span.

    ``name`` is that of the span, so it has no ids; ``link`` is the ``traceparent`` of the span that caused it;
    ``traced`` is ``is_traced()``, if the caller has asked already.
    """

    def __init__(
        self,
        name: str,
        kind: Literal["consumer", "producer", "internal"],
        ids: Mapping[str, str],
        attributes: Attributes | None = None,
        *,
        link: str | None = None,
        traced: bool | None = None,
    ) -> None:
        self._ids = ids
        self._work = _NOTHING
        self._span: AbstractContextManager[Any] | None = None
        # Without an SDK, OpenTelemetry's own no-op spans would cost 10 us for each of an event's three pieces of work.
        if is_traced() if traced is None else traced:
            trace = _api()
            self._span = trace.get_tracer("pgonce").start_as_current_span(
                name,
                kind=trace.SpanKind[kind.upper()],
                attributes={f"pgonce.{key}": value for key, value in ids.items()} | dict(attributes or {}),
                links=_links(trace, link),
                record_exception=False,
                set_status_on_exception=False,
            )

    def __enter__(self) -> Work:
        if self._span is not None:
            self._work = Work(self._span.__enter__())
        self._token = _current.set({**_current.get(), **self._ids})
        return self._work

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ValueError):  # ended in another task than it began in
            _current.reset(self._token)
        if self._span is not None:
            if isinstance(error, Exception):  # not event.ignore and the like, which are decisions
                self._work.failed(error)
            self._span.__exit__(kind, error, trace)


def is_traced() -> bool:
    """Whether the application has configured an SDK: only then is it worth a query to find out what to link to."""
    trace = _api()
    if trace is None:
        return False
    # by type: isinstance() of an abstract class takes longer than all the rest
    return type(trace.get_tracer_provider()) not in (trace.ProxyTracerProvider, trace.NoOpTracerProvider)


@cache
def _api() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


def _links(trace: Any, traceparent: str | None) -> list[Any]:
    if traceparent is None:
        return []
    try:
        _, trace_id, span_id, flags = traceparent.split("-")
        context = trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=int(flags, 16))
    except ValueError:  # somebody else wrote it
        return []
    return [trace.Link(context)]
