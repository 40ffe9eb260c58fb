-- What an operator does with jobs, runs and imports in the console and on the command line. Each function looks up the role of its
-- session, changes the rows by the function that exists for it, and writes the audit, in one transaction. If nothing was changed,
-- nothing is written.

create or replace function pgonce_console_request_job_run(
  p_session uuid, p_job_name text, p_key text default null, p_scope jsonb default '{}', p_reason text default null)
returns uuid
language plpgsql set search_path from current as $$
declare
  v_id uuid;
begin
  perform pgonce_console_operator(p_session);
  -- The form of a double click or a reloaded page is sent twice, and asks for one run.
  perform pg_advisory_xact_lock(hashtextextended('pgonce request ' || current_schema() || chr(10) || p_job_name, 0));
  select q.id into v_id from pgonce_job_requests q
  where q.job_name = p_job_name and q.key is not distinct from p_key and q.scope = coalesce(p_scope, '{}')
    and q.answered_at is null and q.requested_at > clock_timestamp() - interval '1 hour' limit 1;
  if found then return v_id; end if;
  v_id := pgonce_request_job_run(p_job_name, p_scope, p_key);
  perform pgonce_audit_write('request', 'job', p_job_name, p_after => 'requested', p_reason => p_reason, p_session => p_session,
                             p_detail => jsonb_build_object('request', v_id, 'key', p_key, 'scope', p_scope));
  return v_id;
end $$;
comment on function pgonce_console_request_job_run(uuid, text, text, jsonb, text) is
  'pgonce: pgonce_request_job_run for an operator. Returns the request''s id. If the same run is requested already, and no worker has '
  'answered yet, it is that request''s.';

create or replace function pgonce_console_pause_job(p_session uuid, p_job_name text, p_reason text, p_until timestamptz default null)
returns text
language plpgsql set search_path from current as $$
declare
  v_before text;
begin
  perform pgonce_console_operator(p_session);
  select pgonce_pause_text(p.paused_until, p.reason)
  into v_before from pgonce_job_pauses p
  where p.job_name = p_job_name and coalesce(p.paused_until, 'infinity') > clock_timestamp() for update;
  perform pgonce_pause_job(p_job_name, p_reason, p_until);
  perform pgonce_audit_write('pause', 'job', p_job_name, p_before => coalesce(v_before, 'not paused'),
                             p_after => 'paused' || coalesce(' until ' || pgonce_utc_text(p_until), ''),
                             p_reason => p_reason, p_session => p_session);
  return v_before;
end $$;
comment on function pgonce_console_pause_job(uuid, text, text, timestamptz) is
  'pgonce: pgonce_pause_job for an operator. p_until: null = until the job is resumed. Returns the pause that this one has replaced.';

create or replace function pgonce_console_resume_job(p_session uuid, p_job_name text, p_reason text default null) returns boolean
language plpgsql set search_path from current as $$
declare
  v_before text;
begin
  perform pgonce_console_operator(p_session);
  select pgonce_pause_text(p.paused_until, p.reason)
  into v_before from pgonce_job_pauses p
  where p.job_name = p_job_name for update;
  if not pgonce_resume_job(p_job_name) then return false; end if;
  perform pgonce_audit_write('resume', 'job', p_job_name, p_before => v_before, p_after => 'not paused', p_reason => p_reason,
                             p_session => p_session);
  return true;
end $$;
comment on function pgonce_console_resume_job(uuid, text, text) is 'pgonce: pgonce_resume_job for an operator. false = it was not paused.';

create or replace function pgonce_console_stop_run(p_session uuid, p_run_id uuid, p_reason text default null) returns boolean
language plpgsql set search_path from current as $$
declare
  r cron_job_runs;
begin
  perform pgonce_console_operator(p_session);
  perform pgonce_lock_job_run(p_run_id);
  select * into r from cron_job_runs where id = p_run_id;
  if not pgonce_stop_job_run(p_run_id) then return false; end if;
  perform pgonce_audit_write('stop', 'run', p_run_id::text, p_before => r.status,
                             p_after => case r.status when 'running' then 'stop requested' else 'its retry was cancelled' end, p_reason => p_reason,
                             p_session => p_session, p_detail => jsonb_build_object('job', r.job_name, 'key', r.key));
  return true;
end $$;
comment on function pgonce_console_stop_run(uuid, uuid, text) is
  'pgonce: pgonce_stop_job_run for an operator. false = the run has ended. PT404 = no such run.';

create or replace function pgonce_console_end_run(p_session uuid, p_run_id uuid, p_reason text) returns boolean
language plpgsql set search_path from current as $$
declare
  r cron_job_runs;
begin
  perform pgonce_console_operator(p_session);
  select * into r from cron_job_runs where id = p_run_id;
  if not pgonce_end_job_run(p_run_id, p_reason) then return false; end if;
  perform pgonce_audit_write('end', 'run', p_run_id::text, p_before => r.status, p_after => 'failed', p_reason => p_reason,
                             p_session => p_session, p_detail => jsonb_build_object('job', r.job_name, 'key', r.key, 'process', r.process));
  return true;
end $$;
comment on function pgonce_console_end_run(uuid, uuid, text) is
  'pgonce: pgonce_end_job_run for an operator. false = the run has ended. PT404 = no such run.';

create or replace function pgonce_expectation_text(p_job_name text, p_key text) returns text
language sql stable set search_path from current as $$
  select coalesce((
    select concat_ws('; ', format('every %s, %s later', pgonce_interval_text(e.every), pgonce_interval_text(e.grace)),
                     'in less than ' || pgonce_interval_text(e.within)) from pgonce_job_expectations e
    where e.job_name = p_job_name and e.key = p_key), 'not expected')
$$;
comment on function pgonce_expectation_text(text, text) is 'pgonce: what is expected of a job, for the audit.';

create or replace function pgonce_console_expect_job(
  p_session uuid, p_job_name text, p_every interval, p_grace interval default '5 minutes', p_key text default '', p_reason text default null,
  p_within interval default null)
returns void
language plpgsql set search_path from current as $$
declare
  v_before text;
begin
  perform pgonce_console_operator(p_session);
  perform from pgonce_job_expectations e where e.job_name = p_job_name and e.key = p_key for update;
  v_before := pgonce_expectation_text(p_job_name, p_key);
  perform pgonce_expect_job(p_job_name, p_every, p_grace, p_key, p_within);
  perform pgonce_audit_write('expect', 'job', p_job_name, p_before => v_before, p_after => pgonce_expectation_text(p_job_name, p_key),
                             p_reason => p_reason, p_session => p_session, p_detail => jsonb_build_object('key', p_key));
end $$;
comment on function pgonce_console_expect_job(uuid, text, interval, interval, text, text, interval) is
  'pgonce: pgonce_expect_job for an operator.';

create or replace function pgonce_console_forget_job_expectation(
  p_session uuid, p_job_name text, p_key text default '', p_reason text default null)
returns boolean
language plpgsql set search_path from current as $$
declare
  v_before text;
begin
  perform pgonce_console_operator(p_session);
  perform from pgonce_job_expectations e where e.job_name = p_job_name and e.key = p_key for update;
  v_before := pgonce_expectation_text(p_job_name, p_key);
  if not pgonce_forget_job_expectation(p_job_name, p_key) then return false; end if;
  perform pgonce_audit_write('forget', 'job', p_job_name, p_before => v_before, p_after => 'not expected', p_reason => p_reason,
                             p_session => p_session, p_detail => jsonb_build_object('key', p_key));
  return true;
end $$;
comment on function pgonce_console_forget_job_expectation(uuid, text, text, text) is
  'pgonce: pgonce_forget_job_expectation for an operator. false = the job was not expected to run.';

create or replace function pgonce_console_pause_seed(p_session uuid, p_seed_name text, p_reason text default null) returns boolean
language plpgsql set search_path from current as $$
declare
  v_before timestamptz;
begin
  perform pgonce_console_operator(p_session);
  select s.paused_at into v_before from seed_checkpoints s where s.seed_name = p_seed_name for no key update;
  perform pgonce_pause_seed(p_seed_name);
  if v_before is not null then return false; end if;
  perform pgonce_audit_write('pause', 'import', p_seed_name, p_before => 'not paused', p_after => 'pause requested', p_reason => p_reason,
                             p_session => p_session);
  return true;
end $$;
comment on function pgonce_console_pause_seed(uuid, text, text) is
  'pgonce: pgonce_pause_seed for an operator. false = it was paused already. PT404 = it has never run.';

create or replace function pgonce_console_resume_seed(p_session uuid, p_seed_name text, p_reason text default null) returns boolean
language plpgsql set search_path from current as $$
declare
  v_before timestamptz;
begin
  perform pgonce_console_operator(p_session);
  select s.paused_at into v_before from seed_checkpoints s where s.seed_name = p_seed_name for no key update;
  perform pgonce_resume_seed(p_seed_name);
  if v_before is null then return false; end if;
  perform pgonce_audit_write('resume', 'import', p_seed_name, p_before => 'paused since ' || pgonce_utc_text(v_before),
                             p_after => 'not paused',
                             p_reason => p_reason, p_session => p_session);
  return true;
end $$;
comment on function pgonce_console_resume_seed(uuid, text, text) is
  'pgonce: pgonce_resume_seed for an operator. false = it was not paused. PT404 = it has never run.';

create or replace function pgonce_console_reset_seed(p_session uuid, p_seed_name text, p_reason text default null) returns boolean
language plpgsql set search_path from current as $$
declare
  v_before text;
begin
  perform pgonce_console_operator(p_session);
  select format('%s, %s rows seen', s.status, s.rows_seen) into v_before from seed_checkpoints s where s.seed_name = p_seed_name for update;
  if not pgonce_reset_seed(p_seed_name) then return false; end if;
  perform pgonce_audit_write('reset', 'import', p_seed_name, p_before => v_before, p_after => 'no checkpoint', p_reason => p_reason,
                             p_session => p_session);
  return true;
end $$;
comment on function pgonce_console_reset_seed(uuid, text, text) is
  'pgonce: pgonce_reset_seed for an operator. false = it has never run. PT409 = a runner is importing it.';

create or replace function pgonce_console_retry_seed_rejects(p_session uuid, p_seed_name text, p_reason text default null) returns bigint
language plpgsql set search_path from current as $$
declare
  v_rejects bigint := pgonce_count_rejects(p_seed_name);
begin
  perform pgonce_console_operator(p_session);
  if v_rejects > 0 then
    perform pgonce_audit_write('retry', 'import', p_seed_name, p_before => v_rejects::text || ' rejected rows', p_after => 'a retry was begun',
                               p_reason => p_reason, p_session => p_session);
  end if;
  return v_rejects;
end $$;
comment on function pgonce_console_retry_seed_rejects(uuid, text, text) is
  'pgonce: records that an operator retries the rejected rows of an import, and returns how many there are. The caller retries them, because '
  'the import is defined in its app.';

-- The function claims the event in the states in which a redelivery may claim it, and then ignores it under that lease. An event
-- that waits is left to its worker. The reason does not begin with "no handler", because workers that start take such events back.
create or replace function pgonce_console_ignore_webhook(p_session uuid, p_stripe_event_id text, p_reason text) returns boolean
language plpgsql set search_path from current as $$
declare
  v_actor text := pgonce_console_operator(p_session);
  v_lease uuid := gen_random_uuid();
  e webhook_events;
begin
  if coalesce(p_reason, '') = '' then
    raise sqlstate '22023' using message = 'a reason is needed: it is kept with the event and in the audit';
  end if;
  select * into e from webhook_events where stripe_event_id = p_stripe_event_id for no key update skip locked;
  if not found then
    if exists (select from webhook_events where stripe_event_id = p_stripe_event_id) then
      raise sqlstate 'PT409' using message = format('a handler is at work on event %s', p_stripe_event_id);
    end if;
    raise sqlstate 'PT404' using message = format('there is no event %s', p_stripe_event_id);
  end if;
  update webhook_events set status = 'processing', lease = v_lease, lease_expires_at = clock_timestamp() + interval '1 minute'
  where id = e.id and (e.status = 'failed' or e.status = 'processing' and e.lease_expires_at <= clock_timestamp()
                                              and not pgonce_is_lease_renewed(e.id, e.lease));
  if not found then return false; end if;
  perform ignore_webhook(e.id, v_lease, format('by %s: %s', v_actor, p_reason));
  perform pgonce_audit_write('ignore', 'webhook', p_stripe_event_id, p_before => pgonce_webhook_state(e.status, e.next_attempt_at, e.lease),
                             p_after => 'ignored', p_reason => p_reason, p_session => p_session,
                             p_detail => jsonb_build_object('type', e.event_type));
  return true;
end $$;
comment on function pgonce_console_ignore_webhook(uuid, text, text) is
  'pgonce: ends an event that has failed, or whose handler has died, as ignored, for an operator: it is not tried again. false = it waits for '
  'a worker, is being handled, or is final. PT404 = no such event. PT409 = a handler is at work on it. It can be replayed.';
