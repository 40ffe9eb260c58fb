"""The view that receives Stripe's webhooks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import psycopg
from django.db import connections, transaction
from django.db.utils import Error as DjangoError
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from pgonce.core.execute import was_closed
from pgonce.errors import DatabaseUnavailable
from pgonce.integrations.django.conf import setting
from pgonce.integrations.django.registry import app
from pgonce.webhooks.endpoint import Endpoint


class _Endpoint(Endpoint):
    """Records through Django's own connection: no pool beside it, and a test's transaction is rolled back as usual."""

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            connection = _connection()
        except DjangoError as error:
            raise DatabaseUnavailable(str(error)) from error
        yield connection.connection
        if not connection.in_atomic_block:  # with AUTOCOMMIT off nobody else would commit; otherwise no round trip
            connection.connection.commit()


def _connection() -> Any:
    """Django's connection, with one of psycopg's in it."""
    connection = connections[setting("DATABASE")]
    if connection.connection is not None and not connection.in_atomic_block:
        with suppress(DjangoError, psycopg.Error):
            connection.close_if_unusable_or_obsolete()
    connection.ensure_connection()
    # Django notices a lost connection, and checks its health, only in its own cursors. One that is kept for longer than
    # a request would be used again and again.
    while not connection.in_atomic_block and was_closed(connection.connection):
        connection.close()
        connection.connect()
    return connection


def _secrets() -> Any:
    given = setting("SECRETS") or os.environ.get("PGONCE_WEBHOOK_SECRET", "")
    return [each for each in given.split(",") if each.strip()] if isinstance(given, str) else given


@cache
def _endpoint(schema: str) -> Endpoint:
    return _Endpoint(app, secrets=_secrets, schema=schema, queue=True)


@csrf_exempt
@require_POST
def stripe_webhook(request: HttpRequest) -> HttpResponse:
    """Verify and record a delivery, and answer; ``manage.py pgonce worker`` handles the event."""
    response = _endpoint(setting("SCHEMA")).handle(request.body, request.headers)
    return HttpResponse(response.body, status=response.status, headers=response.headers)


for _alias in connections:  # of the settings, each of which may have ATOMIC_REQUESTS
    stripe_webhook = transaction.non_atomic_requests(using=_alias)(stripe_webhook)
