-- Rows whose every text is hostile, for test_hostile.py, which defines pg_temp.evil().
set local session_replication_role = replica;  -- the columns that triggers fill are filled here
insert into webhook_events (stripe_event_id, event_type, status, queued, payload, error_message, ignored_reason, lease,
  lease_expires_at, next_attempt_at, attempts, received_at)
select case when n = 1 then pg_temp.evil() else 'evt_' || n || pg_temp.evil() end, pg_temp.evil(), s.status, true,
  jsonb_build_object('id', pg_temp.evil(), 'api_version', pg_temp.evil(), 'account', pg_temp.evil(), pg_temp.evil(), pg_temp.evil(), 'created', 1700000000 + n,
    'data', jsonb_build_object('object', jsonb_build_object('id', pg_temp.evil(), 'object', pg_temp.evil(), 'customer', 'c' || pg_temp.evil(),
      'subscription', pg_temp.evil(), 'n', n), 'previous_attributes', jsonb_build_object('n', pg_temp.evil()))),
  'Traceback (most recent call last):' || E'\n  File "/srv/' || pg_temp.evil() || '", line 3, in ' || pg_temp.evil() || E'\n    ' || pg_temp.evil()
    || E'\nValueError: ' || pg_temp.evil(),
  pg_temp.evil(), null, null, case when s.status = 'processing' then now() end, 1, now() - n * interval '1 minute'
from generate_series(1, 8) n, lateral (select (array['failed', 'failed', 'processing', 'ignored', 'succeeded'])[1 + n % 5] as status) s;
insert into pgonce_webhook_attempts (event_id, what, attempt, worker, error, replay_id)
select id, w, 1, pg_temp.evil(), pg_temp.evil(), null from webhook_events, unnest(array['failed', 'lost', 'replayed', 'erased']) w;
insert into pgonce_refused_deliveries values (date_trunc('minute', now()), pg_temp.evil(), 5);
insert into pgonce_checks (name, checked_by, detail) values ('stripe', pg_temp.evil(), jsonb_build_object('error', pg_temp.evil()));
insert into cron_job_runs (job_name, key, status, error_message, process, scope, started_at, duration_ms, completed_at,
  blocked_by, scheduled_for, progress_done, progress_total, progress_at)
select pg_temp.evil(), k, s, pg_temp.evil(), pg_temp.evil() || ':1', jsonb_build_object(pg_temp.evil(), pg_temp.evil()), now() - i * interval '1 hour', 60000,
  case when s <> 'running' then now() end, null, now() - i * interval '1 hour', 1, 2, now()
from unnest(array['', pg_temp.evil()]) k, unnest(array['running', 'failed', 'skipped', 'succeeded']) with ordinality u (s, i);
insert into pgonce_job_schedules (job_name, key, cron, timezone, next_tick, app)
values (pg_temp.evil(), '', pg_temp.evil(), pg_temp.evil(), now() - interval '1 hour', pg_temp.evil());
insert into pgonce_job_expectations (job_name, every) values (pg_temp.evil(), '1 minute');
insert into pgonce_job_pauses (job_name, reason) values (pg_temp.evil(), pg_temp.evil());
insert into pgonce_job_requests (job_name, key, answer) values (pg_temp.evil(), pg_temp.evil(), pg_temp.evil());
insert into pgonce_job_releases (app, release, jobs) values (pg_temp.evil(), pg_temp.evil(), array[pg_temp.evil()]);
insert into seed_checkpoints (seed_name, status, error_message, rows_seen, rows_rejected, target, verified, fingerprint)
select pg_temp.evil() || n, case when n = 1 then 'failed' else 'complete' end, pg_temp.evil(), 9, 3, jsonb_build_object('table', pg_temp.evil()),
  jsonb_build_object('ok', false, pg_temp.evil(), pg_temp.evil()), jsonb_build_object(pg_temp.evil(), pg_temp.evil()) from generate_series(1, 2) n;
insert into pgonce_seed_partitions (seed_name, partition, status) values (pg_temp.evil() || 1, pg_temp.evil(), 'failed');
insert into cron_job_runs (job_name, key, status, error_message, process, completed_at, scope)
values ('seed_runner', pg_temp.evil() || 1, 'failed', pg_temp.evil(), pg_temp.evil(), now(), jsonb_build_object('from_row', 3, 'outcome', pg_temp.evil()));
insert into pgonce_seed_rejects (seed_name, partition, row_number, row, sqlstate, error, reason, column_name) values
  (pg_temp.evil() || 1, pg_temp.evil(), 1, jsonb_build_object(pg_temp.evil(), pg_temp.evil()), '23505', pg_temp.evil(), pg_temp.evil(), pg_temp.evil()),
  (pg_temp.evil() || 1, '', 2, null, pg_temp.evil(), pg_temp.evil(), null, null);
insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, detail, last_error)
select pg_temp.evil(), k, pg_temp.evil() || k, pg_temp.evil() || k, pg_temp.evil(), jsonb_build_object(d, pg_temp.evil(), 'job_name', pg_temp.evil()), pg_temp.evil()
from unnest(array['run_failed', 'ran_long', 'dead_webhook', 'import_failed', pg_temp.evil()]) k,
  lateral (select (array['run_id', 'key', 'stripe_event_id', 'seed_name'])[1 + length(k) % 4] as d) x;
insert into pgonce_audit (actor, source, address, action, noun, object, before, after, reason, detail)
select pg_temp.evil(), 'sql', pg_temp.evil(), pg_temp.evil(), n, case n when 'job' then pg_temp.evil() when 'import' then pg_temp.evil() || 1 else (select id::text from cron_job_runs limit 1) end,
  pg_temp.evil(), pg_temp.evil(), pg_temp.evil(), jsonb_build_object(pg_temp.evil(), pg_temp.evil()) from unnest(array['job', 'run', 'import', 'alert', pg_temp.evil()]) n;
insert into pgonce_processes (id, does, host, pid, version, app, release, digest, handlers, jobs, busy_with) values
  (gen_random_uuid(), 'events', pg_temp.evil(), 1, pg_temp.evil(), pg_temp.evil(), pg_temp.evil(), pg_temp.evil(), array[pg_temp.evil()], array[pg_temp.evil()], array[pg_temp.evil()]);
update webhook_events set object_id = pg_temp.evil(), customer_id = 'c' || pg_temp.evil(), account = pg_temp.evil(),
  failure = case when status = 'failed' then pg_temp.evil() end;
insert into pgonce_replays (status, who, why, filter, plan, started_at, stopped_by)
values ('running', pg_temp.evil(), pg_temp.evil(), jsonb_build_object('type', pg_temp.evil()), '{"events": 8}', now(), pg_temp.evil());
insert into pgonce_replay_items (replay_id, position, event_id, stripe_event_id, seen_status)
select r.id, row_number() over (), e.id, e.stripe_event_id, 'dead' from webhook_events e, pgonce_replays r;
