"""What a project's own tests look like; ``manage.py test`` runs them in tests/edge/integrations/test_django.py."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import IntegrityError, connection
from django.test import TestCase, TransactionTestCase

from pgonce import Jobs
from pgonce.core.database import open_pool
from pgonce.errors import InvalidArgument, LeaseLost, TransactionBroken
from pgonce.integrations.django import app, database_url, fenced
from pgonce.integrations.django.models import JobRun, WebhookEvent
from pgonce.testing import clean, deliver, drain, event, handled, run
from shop.models import Payment
from shop.webhooks import invoice_paid


class InATransaction(TestCase):
    """Django rolls each test back."""

    def test_the_models_are_complete(self) -> None:
        call_command("makemigrations", "--check", "--dry-run", verbosity=0)

    def test_a_delivery_is_recorded_and_the_test_s_transaction_takes_it_back(self) -> None:
        for _ in range(2):
            answer = deliver(self.client, event("invoice.paid", event_id="evt_1"))
            assert answer.status_code == 200, answer.content
        found = WebhookEvent.objects.get()
        assert (found.stripe_event_id, found.status, found.payload["id"]) == ("evt_1", "processing", "evt_1")

    def test_z_nothing_is_left_of_it(self) -> None:
        assert WebhookEvent.objects.count() == 0

    def test_a_wrong_signature_is_refused(self) -> None:
        assert deliver(self.client, event("invoice.paid"), secret="whsec_other").status_code == 400
        assert self.client.get("/webhooks/stripe").status_code == 405

    def test_what_a_trigger_refuses_is_a_503_and_its_words_are_not_logged(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "create function picky() returns trigger language plpgsql as"
                " $$ begin raise 'no %', new.payload; end $$;"
                "create trigger picky before insert on webhook_events for each row execute function picky()"
            )
        with self.assertLogs("pgonce", "ERROR") as logged:
            assert deliver(self.client, event("invoice.paid", event_id="evt_1")).status_code == 503
        assert "RaiseException (P0001) in PL/pgSQL function picky()" in str(logged.output)
        assert "evt_1" not in str(logged.output)

    def test_a_handler_is_a_function(self) -> None:
        invoice_paid(handled(event("invoice.paid", id="in_1")))
        assert Payment.objects.get().invoice == "in_1"

    def test_an_asynchronous_handler_needs_another_transaction(self) -> None:
        async def later(_event: Any) -> None:
            pass

        with pytest.raises(InvalidArgument, match="make it plain"):
            app.webhook("payout.paid")(later)


class WithAWorker(TransactionTestCase):
    """Other connections see what is committed."""

    def setUp(self) -> None:
        clean(database_url())

    def test_the_effect_commits_with_the_mark(self) -> None:
        for _ in range(3):
            deliver(self.client, event("invoice.paid", event_id="evt_1", id="in_1"))
        assert drain(app, url=database_url()) == 1
        assert list(Payment.objects.values_list("invoice", flat=True)) == ["in_1"]
        assert WebhookEvent.objects.get().status == "succeeded"

    def test_a_handler_that_fails_leaves_nothing(self) -> None:
        deliver(self.client, event("invoice.paid", number="bad"))
        with pytest.raises(ValueError, match="4242"):
            drain(app, url=database_url())
        assert (Payment.objects.count(), WebhookEvent.objects.get().status) == (0, "failed")

    def test_a_constraint_that_fails_at_the_end_fails_the_event(self) -> None:
        Payment.objects.create(invoice="in_1")
        deliver(self.client, event("invoice.paid", id="in_1"))
        with pytest.raises(IntegrityError):
            drain(app, url=database_url())
        assert WebhookEvent.objects.get().status == "failed"

    def test_an_event_whose_effect_its_handler_rolls_back_is_not_marked(self) -> None:
        deliver(self.client, event("invoice.paid", number="rolled back"))
        with pytest.raises(TransactionBroken, match="leave COMMIT and ROLLBACK to Django"):
            drain(app, url=database_url())
        assert (Payment.objects.count(), WebhookEvent.objects.get().status) == (0, "failed")

    def test_a_job_that_ends_its_fenced_transaction_fails(self) -> None:
        done: Any = run(app, "daily_payment", at="2026-11-29T06:00", url=database_url())
        for end in ("commit", "rollback"):
            with pytest.raises(TransactionBroken), fenced(done), connection.cursor() as cursor:
                cursor.execute(end)

    def test_a_fenced_transaction_that_keeps_one_snapshot_commits_after_heartbeats(self) -> None:
        def beats() -> object:
            with psycopg.connect(database_url()) as conn:
                return conn.execute("select pgonce_report_job_run(id) from cron_job_runs").fetchall()

        with connection.cursor() as cursor:
            cursor.execute("set default_transaction_isolation to 'repeatable read'")
        self.addCleanup(connection.close)
        with open_pool(database_url(), 2) as pool, Jobs(pool).run("figures") as done:
            assert done
            for number in range(2):
                with fenced(done):
                    Payment.objects.create(invoice=f"figures {number}")
                    assert beats() == [("running",)]
        assert Payment.objects.count() == 2

    def test_a_job_writes_through_the_orm_while_its_run_is_its_own(self) -> None:
        done = run(app, "daily_payment", at="2026-11-29T06:00", url=database_url())
        assert done is not None
        assert Payment.objects.count() == 1
        with pytest.raises(LeaseLost), fenced(done):  # type: ignore[arg-type]
            Payment.objects.create(invoice="zombie")
        assert Payment.objects.count() == 1

    def test_the_worker_closes_the_connections_of_its_threads(self) -> None:
        name = connection.settings_dict["NAME"]
        for number in range(3):
            deliver(self.client, event("invoice.paid", id=f"in_{number}"))
        drain(app, url=database_url())
        with connection.cursor() as cursor:
            cursor.execute(
                "select count(*) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
                " and application_name = 'shop & co'",
                [name],
            )
            assert cursor.fetchone()[0] == 0


class InTheAdmin(TransactionTestCase):
    """The permission to view is enough to look. Replay and stop each need a permission of their own."""

    def setUp(self) -> None:
        clean(database_url())
        deliver(self.client, event("invoice.paid", event_id="evt_1", customer="cus_1", number="bad"))
        drain(app, url=database_url(), raises=False)
        self.running = JobRun.objects.raw("select * from cron_job_runs where id = start_job_run('hanging')")
        with connection.cursor() as cursor:
            cursor.execute("select start_job_run('hanging')")
            self.running = cursor.fetchone()[0]

    def login(self, *may: str, superuser: bool = False) -> None:
        user = User.objects.create_user(f"u{uuid4().hex[:6]}", is_staff=True, is_superuser=superuser)
        user.user_permissions.set(Permission.objects.filter(codename__in=may))
        self.client.force_login(user)

    def act(self, model: str, action: str, row: Any) -> Any:
        return self.client.post(f"/admin/pgonce/{model}/", {"action": action, "_selected_action": [row]}, follow=True)

    def test_everything_can_be_seen_and_found_and_nothing_changed(self) -> None:
        self.login(superuser=True)
        row = WebhookEvent.objects.get()
        pages = {
            "/admin/pgonce/webhookevent/": "evt_1",
            "/admin/pgonce/webhookevent/?q=cus_1": "evt_1",
            f"/admin/pgonce/webhookevent/{row.pk}/change/": "ValueError",
            "/admin/pgonce/jobrun/?status=running": "hanging",
            f"/admin/pgonce/jobrun/{self.running}/change/": "hanging",
            "/admin/pgonce/seedcheckpoint/": "Select import to view",
        }
        for address, says in pages.items():
            answer = self.client.get(address)
            assert answer.status_code == 200, address
            assert says in answer.content.decode(), address
        assert self.client.get("/admin/pgonce/webhookevent/add/").status_code == 403
        assert self.client.post(f"/admin/pgonce/webhookevent/{row.pk}/delete/").status_code == 403
        self.client.post(f"/admin/pgonce/webhookevent/{row.pk}/change/", {"status": "succeeded"})
        assert WebhookEvent.objects.get().status == "failed"

    def test_replay_and_stop_need_their_permissions(self) -> None:
        row = WebhookEvent.objects.get()
        self.login("view_webhookevent", "view_jobrun")
        self.act("webhookevent", "replay", row.pk)
        self.act("jobrun", "stop", self.running)
        assert WebhookEvent.objects.get().status == "failed"
        assert JobRun.objects.get().stop_requested_at is None
        self.login("view_webhookevent", "view_jobrun", "replay_webhookevent", "stop_jobrun")
        assert "1 of 1 queued again" in self.act("webhookevent", "replay", row.pk).content.decode()
        assert "1 of 1 asked to stop" in self.act("jobrun", "stop", self.running).content.decode()
        assert WebhookEvent.objects.get().status == "processing"
        assert JobRun.objects.get().stop_requested_at is not None
