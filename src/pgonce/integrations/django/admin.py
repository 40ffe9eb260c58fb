"""The three tables in the admin: to look at, with replay and stop."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import connections
from django.http import HttpRequest
from django.utils.functional import cached_property
from psycopg import sql

from pgonce.integrations.django.conf import setting
from pgonce.integrations.django.models import JobRun, SeedCheckpoint, WebhookEvent

MOST = 10_000
"""Rows that are counted: in a table of millions an exact number takes seconds."""


class BoundedPaginator(Paginator):
    """Counts no further than ``MOST``."""

    @cached_property
    def count(self) -> int:
        """How many rows, at most ``MOST``."""
        found: int = self.object_list.order_by()[:MOST].count()
        return found


class ReadOnly(admin.ModelAdmin):
    """Nothing is added, changed or deleted here."""

    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> Any:
        """The rows in the database that has pgonce's tables: a router sends the admin to ``default``."""
        return super().get_queryset(request).using(setting("DATABASE"))

    def has_add_permission(self, *_: Any) -> bool:
        """Rows are pgonce's to add, change and delete: a deleted event would be handled again."""
        return False

    has_change_permission = has_delete_permission = has_add_permission

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Whether the user may replay events."""
        return bool(request.user.has_perm("pgonce.replay_webhookevent"))

    def has_stop_permission(self, request: HttpRequest) -> bool:
        """Whether the user may stop runs."""
        return bool(request.user.has_perm("pgonce.stop_jobrun"))


def _call(function: str, *arguments: Any) -> Any:
    name = sql.Identifier(setting("SCHEMA"), function).as_string()
    marks = ", ".join(["%s"] * len(arguments))
    with connections[setting("DATABASE")].cursor() as cursor:
        cursor.execute(f"select {name}({marks})", arguments)
        return cursor.fetchone()[0]


@admin.register(WebhookEvent)
class WebhookEventAdmin(ReadOnly):
    """The inbox."""

    list_display = ("stripe_event_id", "event_type", "status", "attempts", "received_at", "object_id", "customer_id")
    list_filter = ("status", "livemode")
    ordering = ("-received_at",)
    search_fields = ("stripe_event_id__exact", "object_id__exact", "customer_id__exact", "event_type__exact")
    search_help_text = "The whole id of an event, object or customer, or a type."
    actions = ("replay",)

    @admin.action(description="Handle again", permissions=["replay"])
    def replay(self, request: HttpRequest, chosen: Any) -> None:
        """Queue the chosen events again, whatever became of them; a worker handles them."""
        events = list(chosen.values_list("stripe_event_id", flat=True))
        who = f"{request.user.get_username()} (admin)"
        queued = sum(bool(_call("pgonce_replay_webhook", event, who, "Django admin")) for event in events)
        self.message_user(request, f"{queued} of {len(events)} queued again", messages.SUCCESS)


@admin.register(JobRun)
class JobRunAdmin(ReadOnly):
    """The audit trail of the jobs."""

    list_display = ("job_name", "key", "status", "started_at", "duration_ms", "rows_processed", "process")
    list_filter = ("status",)
    ordering = ("-started_at",)
    search_fields = ("job_name__exact",)
    search_help_text = "The whole name of a job."
    actions = ("stop",)

    @admin.action(description="Ask to stop", permissions=["stop"])
    def stop(self, request: HttpRequest, chosen: Any) -> None:
        """Ask the chosen runs to stop; each notices at its next heartbeat."""
        runs = list(chosen.values_list("id", flat=True))
        asked = sum(bool(_call("pgonce_stop_job_run", run)) for run in runs)
        self.message_user(request, f"{asked} of {len(runs)} asked to stop", messages.SUCCESS)


@admin.register(SeedCheckpoint)
class SeedCheckpointAdmin(ReadOnly):
    """The imports."""

    list_display = ("seed_name", "status", "rows_seen", "rows_inserted", "rows_rejected", "last_updated_at")
    list_filter = ("status",)
    ordering = ("-last_updated_at",)
