"""What a thread or task is at work on: its ids, for log lines, and a span, where OpenTelemetry is installed.

Only OpenTelemetry's API is used, which does nothing until the application configures an SDK. Nothing of an event's or a
row's content becomes an attribute, and of an exception only its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
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


@contextmanager
def working(
    name: str,
    kind: Literal["consumer", "producer", "internal"],
    ids: Mapping[str, str],
    attributes: Attributes | None = None,
    *,
    link: str | None = None,
) -> Iterator[Work]:
    """A piece of work: its ids are those of this thread or task meanwhile, and it is a span.

    Args:
        name: of the span; of few kinds, so without ids.
        kind: as OpenTelemetry has it.
        ids: such as ``{"event_id": "evt_1"}``.
        attributes: of the span, besides the ids.
        link: the ``traceparent`` of the span that caused it.
    """
    token = _current.set({**_current.get(), **ids})
    try:
        # Without an SDK, OpenTelemetry's own no-op spans would cost 10 us for each of an event's three pieces of work.
        trace = _api() if is_traced() else None
        if trace is None:
            yield _NOTHING
            return
        with trace.get_tracer("pgonce").start_as_current_span(
            name,
            kind=trace.SpanKind[kind.upper()],
            attributes={f"pgonce.{key}": value for key, value in ids.items()} | dict(attributes or {}),
            links=_links(trace, link),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            work = Work(span)
            try:
                yield work
            except Exception as error:  # not event.ignore and the like, which are decisions
                work.failed(error)
                raise
    finally:
        with suppress(ValueError):  # ended in another task than it began in
            _current.reset(token)


def is_traced() -> bool:
    """Whether the application has configured an SDK: only then is it worth a query to find out what to link to."""
    trace = _api()
    return trace is not None and not isinstance(
        trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider
    )


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
