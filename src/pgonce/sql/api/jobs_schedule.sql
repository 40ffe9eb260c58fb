-- What keeps runs going: reports and stops, the sweep, retries, and what the schedulers leave behind about ticks.
--
-- A verb's "to" is the state of the run it names; for pgonce_retry_job_run and pgonce_skip_job_tick, of the new row ("none": nothing is written).
--   due       failed, with an attempt left whose time has come
--   stopping  running, and somebody has asked for its end
--
-- transitions
-- from      | verb             | to        | because
-- absent    | pgonce_report_job_run   | PT404     | no such run
-- running   | pgonce_report_job_run   | running   | still yours; the figures are written
-- stopping  | pgonce_report_job_run   | stopping  | still yours, and it should end
-- stale     | pgonce_report_job_run   | running   | late, but nobody took it over
-- succeeded | pgonce_report_job_run   | lost      | it has ended
-- failed    | pgonce_report_job_run   | lost      | it has ended, or was taken over
-- due       | pgonce_report_job_run   | lost      | it has ended
-- skipped   | pgonce_report_job_run   | lost      | it never ran
-- absent    | pgonce_stop_job_run     | PT404     | no such run
-- running   | pgonce_stop_job_run     | stopping  | cooperative: the run learns it at its next heartbeat
-- stopping  | pgonce_stop_job_run     | stopping  | asked for already; the first time stays
-- stale     | pgonce_stop_job_run     | stopping  | should it come back, it ends
-- succeeded | pgonce_stop_job_run     | false     | it has ended
-- failed    | pgonce_stop_job_run     | false     | it has ended
-- due       | pgonce_stop_job_run     | failed    | its retries are called off
-- skipped   | pgonce_stop_job_run     | false     | it never ran
-- absent    | pgonce_retry_job_run    | none      | purged meanwhile
-- running   | pgonce_retry_job_run    | none      | it has not failed
-- stopping  | pgonce_retry_job_run    | none      | it has not failed
-- stale     | pgonce_retry_job_run    | none      | it has not been closed yet
-- succeeded | pgonce_retry_job_run    | none      | nothing to retry
-- failed    | pgonce_retry_job_run    | none      | no attempt left, or it was retried already
-- due       | pgonce_retry_job_run    | running   | the next attempt; or none, pushed back, while another run of the job is at work
-- skipped   | pgonce_retry_job_run    | none      | it never ran

create or replace function pgonce_report_job_run(
  p_run_id uuid, p_rows_processed integer default 0, p_rows_skipped integer default 0,
  p_progress_done bigint default null, p_progress_total bigint default null) returns text
language plpgsql set search_path from current as $$
declare
  v_stop timestamptz;
begin
  update cron_job_runs
  set heartbeat_at = clock_timestamp(), rows_processed = p_rows_processed, rows_skipped = p_rows_skipped,
      progress_done = p_progress_done, progress_total = p_progress_total
  where id = p_run_id and status || '' = 'running'
  returning stop_requested_at into v_stop;
  if found then return case when v_stop is null then 'running' else 'stopping' end; end if;
  if not exists (select from cron_job_runs where id = p_run_id) then
    raise sqlstate 'PT404' using message = format('there is no job run %s', p_run_id);
  end if;
  return 'lost';
end $$;
comment on function pgonce_report_job_run(uuid, integer, integer, bigint, bigint) is
  'pgonce: a heartbeat that also writes how far the run is. running = still yours; stopping = still yours, and somebody asked for its '
  'end; lost = it was taken over or has ended.';

create or replace function pgonce_stop_job_run(p_run_id uuid) returns boolean
language plpgsql set search_path from current as $$
begin
  update cron_job_runs set stop_requested_at = coalesce(stop_requested_at, clock_timestamp())
  where id = p_run_id and status || '' = 'running';
  if found then return true; end if;
  delete from pgonce_job_retries where run_id = p_run_id;
  if found then return true; end if;
  if not exists (select from cron_job_runs where id = p_run_id) then
    raise sqlstate 'PT404' using message = format('there is no job run %s', p_run_id);
  end if;
  return false;
end $$;
comment on function pgonce_stop_job_run(uuid) is
  'pgonce: asks a run to end, and calls off its retries. It learns it at its next heartbeat and ends as failed. false = it has ended.';

create or replace function pgonce_abandon_job_runs() returns integer
language plpgsql set search_path from current as $$
declare
  r record;
  v_closed integer := 0;
begin
  -- in one order: two sweeps at once lock the same rows, and neither waits (skip locked) nor deadlocks
  for r in
    select job_name, key from cron_job_runs
    where status = 'running' and heartbeat_at + run_window <= clock_timestamp() order by job_name, key loop
    if pgonce_abandon_job_run(r.job_name, r.key) then v_closed := v_closed + 1; end if;
  end loop;
  return v_closed;
end $$;
comment on function pgonce_abandon_job_runs() is
  'pgonce: the sweep: closes every run without a sign of life for its whole window, as pgonce_abandon_job_run does. Returns how many.';

-- For a scheduler: the due retries of the jobs it has.
create or replace function pgonce_due_job_retries(p_job_names text[], p_limit integer default 100)
returns table (id uuid, job_name text, key text, scope jsonb, run_window interval)
language sql set search_path from current as $$
  select r.id, r.job_name, r.key, r.scope, r.run_window from pgonce_job_retries d join cron_job_runs r on r.id = d.run_id
  where d.due_at <= clock_timestamp() and d.job_name = any (p_job_names)
  order by d.due_at limit p_limit
$$;
comment on function pgonce_due_job_retries(text[], integer) is
  'pgonce: the failed runs of these jobs whose retry is due; pgonce_retry_job_run starts one.';

create or replace function pgonce_retry_job_run(p_run_id uuid) returns uuid
language plpgsql set search_path from current as $$
declare
  r cron_job_runs;
  v_id uuid;
begin
  -- skip locked: whoever holds it is starting this very retry
  perform from pgonce_job_retries where run_id = p_run_id for update skip locked;
  if not found then return null; end if;
  select * into r from cron_job_runs where id = p_run_id;
  -- A newer tick does the same work: with "* * * * *" and a backoff of a minute, retry and next tick would else meet for ever.
  if found and not exists (
    select from cron_job_runs n
    where n.job_name = r.job_name and n.key = r.key and n.started_at > r.started_at and n.scheduled_for is not null
      and n.status <> 'skipped' and n.scope is not distinct from r.scope) then
    insert into cron_job_runs (job_name, scope, key, run_window, started_at, retries, backoff, attempt, retry_of)
    values (r.job_name, r.scope, r.key, r.run_window, clock_timestamp(), r.retries, r.backoff, r.attempt + 1, r.id)
    on conflict do nothing
    returning id into v_id;
    if not found then
      update pgonce_job_retries set due_at = clock_timestamp() + r.backoff where run_id = p_run_id;
      return null;
    end if;
  end if;
  delete from pgonce_job_retries where run_id = p_run_id;
  return v_id;
end $$;
comment on function pgonce_retry_job_run(uuid) is
  'pgonce: starts the next attempt of a failed run and returns its id. null = somebody else has, or there is nothing to retry, or a '
  'newer tick of the job has done the work, or another run of the job is at work: then it is due again after the backoff.';

create or replace function pgonce_skip_job_tick(p_job_name text, p_key text, p_scheduled_for timestamptz, p_reason text) returns boolean
language sql set search_path from current as $$
  with written as (
    insert into cron_job_runs (job_name, key, status, scheduled_for, started_at, completed_at, duration_ms, error_message)
    values (p_job_name, p_key, 'skipped', p_scheduled_for, clock_timestamp(), clock_timestamp(), 0, p_reason)
    on conflict do nothing returning id)
  select exists (select from written)
$$;
comment on function pgonce_skip_job_tick(text, text, timestamptz, text) is
  'pgonce: records that a tick is not going to run, and why. false = it has fired.';

create or replace function pgonce_plan_job_ticks(
  p_job_names text[], p_keys text[], p_crons text[], p_timezones text[], p_next_ticks timestamptz[], p_graces interval[],
  p_app text default null)
returns integer
language plpgsql set search_path from current as $$
declare
  v_written integer;
begin
  insert into pgonce_job_schedules as s (job_name, key, cron, timezone, next_tick, grace, app)
  select given.*, p_app from unnest(p_job_names, p_keys, p_crons, p_timezones, p_next_ticks, p_graces) as given (job_name, key, cron, timezone, tick, grace)
  order by job_name, key  -- two schedulers at once lock in one order
  on conflict (job_name, key) do update
  set cron = excluded.cron, timezone = excluded.timezone, grace = excluded.grace, app = excluded.app, updated_at = clock_timestamp(),
      -- a slower scheduler does not turn a tick back; a changed plan may
      next_tick = case when (s.cron, s.timezone, s.grace) is distinct from (excluded.cron, excluded.timezone, excluded.grace)
                       then excluded.next_tick else greatest(s.next_tick, excluded.next_tick) end
  where s.next_tick < excluded.next_tick
     or (s.cron, s.timezone, s.grace, s.app) is distinct from (excluded.cron, excluded.timezone, excluded.grace, excluded.app);
  get diagnostics v_written = row_count;
  return v_written;
end $$;
comment on function pgonce_plan_job_ticks(text[], text[], text[], text[], timestamptz[], interval[], text) is
  'pgonce: what schedulers say about their jobs: the earliest tick of each that none has dealt with. One array element per job; '
  'p_app tells one app''s jobs from another''s. Returns how many rows changed.';

create or replace function pgonce_last_job_ticks(p_job_names text[], p_keys text[])
returns table (job_name text, key text, fired timestamptz, planned timestamptz, clock timestamptz)
language sql set search_path from current as $$
  select w.job_name, w.key,
         (select max(r.scheduled_for) from cron_job_runs r
          where r.job_name = w.job_name and r.key = w.key and r.scheduled_for is not null),
         (select s.next_tick from pgonce_job_schedules s where s.job_name = w.job_name and s.key = w.key), clock_timestamp()
  from unnest(p_job_names, p_keys) as w (job_name, key)
$$;
comment on function pgonce_last_job_ticks(text[], text[]) is
  'pgonce: for a scheduler that starts: the last tick of each job that fired, the next one that was planned, and the time of day.';

create or replace function pgonce_forget_job_schedules(p_job_names text[], p_keys text[]) returns integer
language plpgsql set search_path from current as $$
declare
  v_deleted integer;
begin
  -- Not all others: another app on this database, down for a day, would lose what it owes and what pgonce_job_missed has to say.
  -- What was written together with one of these was this app's: its last release's.
  delete from pgonce_job_schedules s
  where s.app in (select k.app from pgonce_job_schedules k where (k.job_name, k.key) in (select * from unnest(p_job_names, p_keys)))
    and (s.job_name, s.key) not in (select * from unnest(p_job_names, p_keys));
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function pgonce_forget_job_schedules(text[], text[]) is
  'pgonce: deletes the schedules of the jobs that were once planned together with these and no longer are: those that an app no '
  'longer has do not count as missed. Other apps'' schedules stay.';
