"""The three tables as models, for reading: pgonce's own functions are what changes them."""

from __future__ import annotations

from typing import Any

from django.db import models

from pgonce.integrations.django.conf import setting


def _table(name: str) -> str:
    schema = setting("SCHEMA")
    return name if schema == "public" else f'"{schema}"."{name}"'


class WebhookEvent(models.Model):
    """An event of Stripe's."""

    id = models.UUIDField(primary_key=True)
    stripe_event_id = models.TextField("event")
    event_type = models.TextField("type")
    status = models.TextField()
    attempts = models.IntegerField()
    deliveries = models.IntegerField()
    received_at = models.DateTimeField()
    processed_at = models.DateTimeField(null=True)
    next_attempt_at = models.DateTimeField(null=True)
    object_id = models.TextField("object", null=True)
    customer_id = models.TextField("customer", null=True)
    account = models.TextField(null=True)
    livemode = models.BooleanField(null=True)
    ignored_reason = models.TextField(null=True)
    error_message = models.TextField(null=True)
    payload = models.JSONField()

    class Meta:
        """Not created by Django."""

        managed = False
        db_table = _table("webhook_events")
        verbose_name = "webhook event"
        permissions = (("replay_webhookevent", "Can replay webhook events"),)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.event_type} {self.stripe_event_id}"


class JobRun(models.Model):
    """A run of a job."""

    id = models.UUIDField(primary_key=True)
    job_name = models.TextField("job")
    key = models.TextField()
    status = models.TextField()
    scope = models.JSONField()
    rows_processed = models.IntegerField()
    rows_skipped = models.IntegerField()
    started_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)
    duration_ms = models.IntegerField(null=True)
    heartbeat_at = models.DateTimeField()
    scheduled_for = models.DateTimeField(null=True)
    stop_requested_at = models.DateTimeField(null=True)
    attempt = models.IntegerField()
    process = models.TextField(null=True)
    error_message = models.TextField(null=True)

    class Meta:
        """Not created by Django."""

        managed = False
        db_table = _table("cron_job_runs")
        verbose_name = "job run"
        permissions = (("stop_jobrun", "Can stop job runs"),)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.job_name} {self.started_at:%Y-%m-%d %H:%M}"


class SeedCheckpoint(models.Model):
    """An import."""

    id = models.UUIDField(primary_key=True)
    seed_name = models.TextField("import")
    status = models.TextField()
    last_checkpoint = models.JSONField()
    rows_seen = models.BigIntegerField()
    rows_inserted = models.IntegerField()
    rows_updated = models.BigIntegerField()
    rows_skipped = models.IntegerField()
    rows_rejected = models.BigIntegerField()
    started_at = models.DateTimeField()
    last_updated_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)
    error_message = models.TextField(null=True)

    class Meta:
        """Not created by Django."""

        managed = False
        db_table = _table("seed_checkpoints")
        verbose_name = "import"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return str(self.seed_name)


def _operations() -> tuple[Any, ...]:
    from django.db.migrations.operations import CreateModel
    from django.db.migrations.state import ModelState

    states = (ModelState.from_model(model) for model in (WebhookEvent, JobRun, SeedCheckpoint))
    return tuple(CreateModel(state.name, list(state.fields.items()), state.options, state.bases) for state in states)


OPERATIONS = _operations()
"""The migration's operations. They are made from the models, so ``makemigrations`` finds no difference."""
