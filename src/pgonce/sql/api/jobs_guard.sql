-- cron_job_runs: one running run per job and key, and an audit row for every start, skip and end.
--
-- A run's id is its fencing token. A takeover is a new row, so a process with the old id can no longer change anything.
--   running    its last heartbeat is younger than its own run_window (or its row is locked: a locked row counts as running)
--   stale      running, but without a heartbeat for a whole window
-- "to" is the state of the run that the verb names. For start_job_run and insert it is the state of the new row. "none": nothing
-- is written.
--
-- transitions
-- from      | verb             | to        | because
-- absent    | start_job_run    | running   | no other run is running
-- running   | start_job_run    | skipped   | overlap: null, and a row that names the running run
-- stale     | start_job_run    | running   | its process died: closed as failed ("abandoned"), a new run begins
-- succeeded | start_job_run    | running   | no other run is running
-- failed    | start_job_run    | running   | no other run is running
-- skipped   | start_job_run    | running   | no other run is running
-- paused    | start_job_run    | skipped   | an operator paused the job: null, and a row with the reason
-- ticked    | start_job_run    | none      | this tick has fired already, on any machine
-- absent    | start_again      | running   | start_job_run with p_run_id: the id of the run is the caller's
-- running   | start_again      | running   | the answer was lost: it is still the caller's
-- stale     | start_again      | running   | late, but nobody took it over
-- succeeded | start_again      | PT409     | it has ended: each start needs an id of its own
-- failed    | start_again      | PT409     | it has ended, or was taken over
-- skipped   | start_again      | PT409     | it never ran
-- absent    | insert           | running   | a plain INSERT by a client that uses only the specification's tables
-- running   | insert           | 23505     | the partial unique index allows only one running run
-- stale     | insert           | running   | a crashed run must not block the job forever: the trigger closes it
-- succeeded | insert           | running   | no other run is running
-- failed    | insert           | running   | no other run is running
-- skipped   | insert           | running   | no other run is running
-- absent    | beat_job_run     | PT404     | no such run: a wrong id is an error, unlike a lost race
-- running   | beat_job_run     | running   | still yours
-- stale     | beat_job_run     | running   | late, but nobody took it over
-- succeeded | beat_job_run     | false     | it has ended
-- failed    | beat_job_run     | false     | it has ended, or was taken over
-- skipped   | beat_job_run     | false     | it never ran
-- absent    | complete_job_run | PT404     | no such run
-- running   | complete_job_run | succeeded | the run ends
-- stale     | complete_job_run | succeeded | late, but nobody took it over
-- succeeded | complete_job_run | succeeded | true: the call was repeated after a lost answer
-- failed    | complete_job_run | false     | it was taken over or has failed
-- skipped   | complete_job_run | false     | it never ran
-- absent    | fail_job_run     | PT404     | no such run
-- running   | fail_job_run     | failed    | the run ends
-- stale     | fail_job_run     | failed    | late, but nobody took it over
-- succeeded | fail_job_run     | false     | it has succeeded
-- failed    | fail_job_run     | failed    | true if it failed with the same message: the call was repeated after a lost answer
-- abandoned | fail_job_run     | false     | a later run took over: the caller lost the run and must stop
-- skipped   | fail_job_run     | false     | it never ran

-- Plans the retry of a failed run: after the backoff, which doubles with every attempt, up to a day. The plan is a row in
-- pgonce_job_retries, written by a statement of its own, so that runs without retries cost nothing extra.
create or replace function pgonce_plan_job_retry(p_run_id uuid) returns void
language sql set search_path from current as $$
  insert into pgonce_job_retries (run_id, job_name, due_at)
  select id, job_name, clock_timestamp() + least(backoff * power(2, least(attempt, 30) - 1), interval '1 day') from cron_job_runs
  where id = p_run_id and status = 'failed' and attempt <= retries and stop_requested_at is null
  on conflict do nothing
$$;
comment on function pgonce_plan_job_retry(uuid) is
  'pgonce: plans the next attempt of a failed run, if it has one left and nobody asked it to stop.';

-- The caller has locked the row and knows that the run's process is dead. The function also ends the database session that
-- this process left open: a client that is stopped in the middle of COPY keeps its locks, and no timeout of PostgreSQL ends a
-- COPY. The run's transactions have its id in application_name, which pg_stat_activity shows at once.
create or replace function pgonce_close_dead_run(p_run_id uuid, p_because text) returns void
language plpgsql set search_path from current as $$
declare
  v_retries integer;
begin
  update cron_job_runs
  set status = 'failed', completed_at = clock_timestamp(),
      duration_ms = pgonce_elapsed_ms(started_at, clock_timestamp()),
      error_message = format('abandoned: last sign of life %s, %s',
        to_char(pgonce_last_heartbeat(id, heartbeat_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'), p_because)
  where id = p_run_id
  returning retries into v_retries;
  if v_retries > 0 then perform pgonce_plan_job_retry(p_run_id); end if;
  perform pg_terminate_backend(pid) from pg_stat_activity
  where application_name = 'pgonce ' || p_run_id::text and usename = current_user and pid <> pg_backend_pid();
end $$;
comment on function pgonce_close_dead_run(uuid, text) is
  'pgonce: closes a run as failed ("abandoned: last sign of life …"). The caller has locked its row.';

create or replace function pgonce_interval_text(p_length interval) returns text
language sql stable parallel safe set search_path from current set intervalstyle to 'postgres_verbose' as $$
  select replace(replace(ltrim(p_length::text, '@ '), ' min', ' minute'), ' sec', ' second')
$$;
comment on function pgonce_interval_text(interval) is
  'pgonce: a length of time for people, exact and the same in each session, such as 1 day 2 hours.';

-- Closes the expired running run of a job and key, unless its row is locked. A lock means that its process is alive: it is
-- inside run.transaction(), or completing the run.
create or replace function pgonce_abandon_job_run(p_job_name text, p_key text) returns boolean
language plpgsql set search_path from current as $$
declare
  v_id uuid;
  v_window interval;
begin
  select id, run_window into v_id, v_window from cron_job_runs
  where job_name = p_job_name and key = p_key and status = 'running' and (
    heartbeat_at + run_window <= clock_timestamp()
    -- nobody corrects such a heartbeat: those that count are in the other table
    or heartbeat_at > clock_timestamp() + interval '1 minute' and id in (select run_id from pgonce_job_heartbeats))
  for update skip locked;
  if not found or pgonce_has_heartbeat(v_id, v_window) then return false; end if;
  perform pgonce_close_dead_run(v_id, format('window %s', pgonce_interval_text(v_window)));
  return true;
end $$;
comment on function pgonce_abandon_job_run(text, text) is
  'pgonce: closes the running run of this job and key as failed, if it has sent no heartbeat for its whole window. true = '
  'closed.';

create or replace function pgonce_cron_job_runs_before_insert() returns trigger
language plpgsql set search_path from current as $$
begin
  -- Not a CHECK: PostgreSQL would parse it again for every start, heartbeat and end.
  if new.run_window <= '0' then
    raise sqlstate '23514' using message = 'the window must be longer than zero';
  end if;
  if new.status <> 'running' then
    if new.started_at < clock_timestamp() - interval '1 hour' then
      begin
        perform pgonce_forget_job_totals(new.started_at);
      exception when insufficient_privilege then  -- it may not call the function
        null;
      end;
    end if;
    return new;
  end if;
  -- If an expired run had to be closed, this run starts after that moment. now() is the start of the transaction: with it,
  -- the two runs would overlap by microseconds in pgonce_job_overlaps.
  if pgonce_abandon_job_run(new.job_name, new.key) and new.started_at = now() then
    new.started_at := clock_timestamp();
  end if;
  return new;
end $$;
comment on function pgonce_cron_job_runs_before_insert() is
  'pgonce: closes a crashed run, so that it does not block a plain INSERT of the next one forever. An old run that is written '
  'afterwards is counted, too.';

-- Without a search_path of its own, see pgonce_elapsed_ms.
create or replace function pgonce_utc_text(p_time timestamptz) returns text
language sql stable parallel safe
return to_char(p_time at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"');
comment on function pgonce_utc_text(timestamptz) is 'pgonce: a time for people, the same in each session, such as 2026-02-03 04:05 UTC.';

create or replace function pgonce_pause_text(p_until timestamptz, p_reason text) returns text
language sql stable parallel safe set search_path from current as $$
  select format('paused%s: %s', ' until ' || pgonce_utc_text(p_until), p_reason)
$$;
comment on function pgonce_pause_text(timestamptz, text) is 'pgonce: a pause for people, as the reason of what it keeps from running.';

-- enable_seqscan = off, here and below: see complete_webhook in webhooks_inbox.sql.
create or replace function start_job_run(
  p_job_name text, p_scope jsonb default '{}', p_window interval default '15 minutes',
  p_key text default '', p_scheduled_for timestamptz default null, p_retries integer default 0,
  p_backoff interval default '1 minute', p_process text default null, p_run_id uuid default null)
returns uuid
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_id uuid;
  v_name text;
  v_holder uuid;
  v_since timestamptz;
  v_expired boolean;
  v_reason text;
  v_until timestamptz;
  v_keys text[];
begin
  -- One short expression, because it is set up again in every transaction. Only if it fails, the CASE finds the reason.
  if (p_job_name > '' and p_window between '1 us' and '100 years' and p_key is not null and p_retries >= 0
      and p_backoff between '1 us' and '1 day') is not true then
    raise sqlstate '22023' using message = case
      when coalesce(p_job_name, '') = '' then 'the job name must not be empty'
      -- the upper bound: if heartbeat + window is beyond the range of timestamps, every later start fails
      when coalesce(p_window, '0') <= '0' or p_window > '100 years' then 'the window must be longer than zero and at most 100 years'
      when p_key is null then 'the key must not be null: leave it out, or pass an empty string'
      when coalesce(p_retries, -1) < 0 then 'the number of retries must not be negative'
      else 'the backoff must be longer than zero and at most a day'
    end;
  end if;
  for v_try in 1 .. 10 loop
    if p_run_id is not null then
      select job_name into v_name from cron_job_runs where id = p_run_id;
      if found then
        if v_name = p_job_name and beat_job_run(p_run_id) then return p_run_id; end if;
        raise sqlstate 'PT409' using message = format('run %s has ended, or is of another job: each start needs an id of its own', p_run_id);
      end if;
    end if;
    if p_scheduled_for is not null then
      v_keys := pgonce_slot_keys(p_key, (
        select slots from pgonce_job_schedules where job_name = p_job_name and key = p_key));
      if cardinality(v_keys) > 1 then  -- the job has slots in another release, see pgonce_start_job_run_in_slot
        perform pg_advisory_xact_lock(hashtextextended('pgonce slots ' || current_schema() || chr(10) || p_job_name || chr(10) || p_key, 0));
      end if;
      if exists (
        select from cron_job_runs
        where job_name = p_job_name and key = any (v_keys) and scheduled_for = p_scheduled_for and id is distinct from p_run_id) then
        return null;
      end if;
      select id, started_at into v_holder, v_since from cron_job_runs
      where cardinality(v_keys) > 1 and job_name = p_job_name and key = any (v_keys) and key <> p_key and status = 'running'
        and id is distinct from p_run_id
        and (heartbeat_at + run_window > clock_timestamp() or pgonce_has_heartbeat(id, run_window))
      order by started_at limit 1;
    end if;

    if v_holder is null then
      -- NOT EXISTS, because ON CONFLICT alone would wait for the running run's uncommitted update. The clock is read inside the
      -- statement: a time read before its snapshot could be earlier than the end of a run that the snapshot shows as ended.
      insert into cron_job_runs (id, job_name, scope, key, run_window, scheduled_for, started_at, heartbeat_at, retries, backoff, process)
      select coalesce(p_run_id, gen_random_uuid()), p_job_name, coalesce(p_scope, '{}'), p_key, p_window, p_scheduled_for, clock.now, clock.now,
             nullif(p_retries, 0), case when p_retries > 0 then p_backoff end, p_process
      from (select clock_timestamp() as now) clock
      where not exists (select from cron_job_runs where job_name = p_job_name and key = p_key and status = 'running')
        and not exists (select from pgonce_job_pauses where job_name = p_job_name)
      on conflict do nothing
      returning id into v_id;
      if found then return v_id; end if;

      -- Which run is running? A new statement also sees what has been committed since the INSERT.
      select id, started_at, heartbeat_at not between clock_timestamp() - run_window and clock_timestamp() + interval '1 minute'
        into v_holder, v_since, v_expired
      from cron_job_runs where job_name = p_job_name and key = p_key and status = 'running';
      if v_holder = p_run_id then  -- the caller's first request has committed since
        v_holder := null;
        continue;
      end if;
      if found and v_expired then
        -- Concurrent takeovers wait for each other here. Each one that loses then sees the winner's committed row and names the
        -- right run. With the row lock alone, half of 200 losers named the dead run.
        perform pg_advisory_xact_lock(hashtextextended('pgonce ' || current_schema() || chr(10) || p_job_name || chr(10) || p_key, 0));
        perform pgonce_correct_heartbeats();
        perform pgonce_abandon_job_run(p_job_name, p_key);
        select id, started_at into v_holder, v_since
        from cron_job_runs where job_name = p_job_name and key = p_key and status = 'running';
      end if;
    end if;
    if v_holder is null then  -- after the running run: a refused start is frequent, and a pause is not
      select reason, paused_until into v_reason, v_until from pgonce_job_pauses where job_name = p_job_name;
      if v_until <= clock_timestamp() then
        delete from pgonce_job_pauses where job_name = p_job_name and paused_until <= clock_timestamp();
        continue;
      end if;
      continue when v_reason is null;  -- the run has just been closed, or another run has fired the tick: try again
    end if;
    insert into cron_job_runs (job_name, status, scope, key, run_window, scheduled_for, started_at, heartbeat_at, completed_at,
                               duration_ms, blocked_by, error_message, process)
    select p_job_name, 'skipped', coalesce(p_scope, '{}'), p_key, p_window, p_scheduled_for, clock.now, clock.now, clock.now, 0, v_holder,
           case when v_holder is null then pgonce_pause_text(v_until, v_reason)
                else format('overlap: run %s has been running since %s', v_holder, pgonce_utc_text(v_since)) end,
           case when v_holder is null then p_process end
    from (select clock_timestamp() as now) clock
    on conflict do nothing;
    return null;
  end loop;
  raise sqlstate '40001' using message = format('runs of job %s started and ended concurrently ten times', p_job_name),
    hint = 'retry';
end $$;
comment on function start_job_run(text, jsonb, interval, text, timestamptz, integer, interval, text, uuid) is
  'pgonce: starts a run of the job and returns its id, which is its token. null = overlap (a skipped row names the running '
  'run), or the job is paused (a skipped row has the reason), or the tick p_scheduled_for has fired already (nothing is '
  'written). p_window: a run without a heartbeat for this long counts as dead; it is stored with the run. p_key: runs with '
  'different keys may run at the same time. p_retries: how many times a failed run is retried, by a worker that has the job. '
  'p_backoff: the delay before the first retry; it doubles with every further one. p_process: host:pid of the process that '
  'runs it, so that a hanging run can be found. p_run_id: a new uuid of yours as the run''s id. If the answer is lost, call again with '
  'the same arguments: you get the same run, as long as nobody else has ended it (then PT409).';

-- In the functions below that take a run's id, "status || ''" keeps the planner from using the indexes of running runs. The
-- planner takes them for the smallest. But every end leaves a dead entry in them, and under a long snapshot these accumulate.
-- By its id a run is one lookup.

create or replace function beat_job_run(p_run_id uuid) returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
begin
  update cron_job_runs set heartbeat_at = clock_timestamp() where id = p_run_id and status || '' = 'running';
  if found then return true; end if;
  if not exists (select from cron_job_runs where id = p_run_id) then
    raise sqlstate 'PT404' using message = format('there is no job run %s', p_run_id);
  end if;
  return false;
end $$;
comment on function beat_job_run(uuid) is
  'pgonce: sends a heartbeat. true = the run is still yours. As the last statement of a transaction it is the fence: roll back '
  'on false, so that a process that lost its run commits nothing.';

create or replace function pgonce_explain_job_run_end(p_run_id uuid) returns text
language plpgsql stable set search_path from current set enable_seqscan = off as $$
declare
  r cron_job_runs;
  v_successor uuid;
begin
  select * into r from cron_job_runs where id = p_run_id;
  if not found then return 'is not in the database any more: it was deleted, or the database has lost its last commits'; end if;
  if r.status = 'running' then return null; end if;
  if r.status = 'failed' and r.error_message like 'abandoned:%' then
    select id into v_successor from cron_job_runs
    where job_name = r.job_name and key = r.key and started_at >= r.started_at and id <> r.id and status <> 'skipped'
    order by started_at limit 1;
    return coalesce('was taken over by run ' || v_successor::text, 'was closed as dead') || substr(r.error_message, 10);
  end if;
  return format('was ended as %s', r.status) || coalesce(': ' || pgonce_error_line(r.error_message), '');
end $$;
comment on function pgonce_explain_job_run_end(uuid) is
  'pgonce: why a run is no longer running, as a text for people: which run took over, or how it was ended. null while it is '
  'running.';

create or replace function pgonce_note_lost_job_run(p_run_id uuid) returns text
language plpgsql set search_path from current set enable_seqscan = off as $$
begin
  -- pgonce_count_job_day holds this lock while it looks for the overlaps of a day: it sees worked_until, or its day is seen here.
  perform pg_advisory_xact_lock_shared(hashtextextended('pgonce job totals ' || current_schema(), 0));
  with lost as (
    update cron_job_runs set worked_until = clock_timestamp() where id = p_run_id and status || '' = 'failed'
    returning job_name, started_at)
  update pgonce_job_days d set overlapping = d.overlapping || l.job_name
  from lost l where d.until > l.started_at and l.job_name <> all (d.overlapping);
  return pgonce_explain_job_run_end(p_run_id);
end $$;
comment on function pgonce_note_lost_job_run(uuid) is
  'pgonce: called by the process of a run when it stops because the run is no longer its own. Records until when it may have '
  'worked, for pgonce_job_overlaps, and returns what pgonce_explain_job_run_end returns.';

-- The slow path of the two functions below. They found no running run; this finds out why, and whether the answer is still
-- true.
create or replace function pgonce_has_job_run_ended(p_run_id uuid, p_status text, p_error_message text) returns boolean
language plpgsql stable set search_path from current as $$
declare
  r cron_job_runs;
begin
  select * into r from cron_job_runs where id = p_run_id;
  if not found then
    raise sqlstate 'PT404' using message = format('there is no job run %s', p_run_id);
  end if;
  return r.status = p_status and r.error_message is not distinct from p_error_message;
end $$;
comment on function pgonce_has_job_run_ended(uuid, text, text) is
  'pgonce: whether a run has ended with this status and message, so that a repeated call gets the same answer as the first. '
  'PT404 for an unknown run.';

create or replace function pgonce_check_job_run_transactions(p_run_id uuid, p_transactions integer) returns void
language plpgsql set search_path from current as $$
declare
  v_found integer;
begin
  select transactions into v_found from cron_job_runs where id = p_run_id and status || '' = 'running';
  if v_found < p_transactions then
    raise sqlstate 'PT409' using message = format(
      'run %s: the database has only %s of its %s transactions: it has lost commits in a failover, and the run must be repeated',
      p_run_id, v_found, p_transactions);
  end if;
end $$;
comment on function pgonce_check_job_run_transactions(uuid, integer) is
  'pgonce: raises PT409 if the database has fewer transactions of a running run than were confirmed to its process.';

-- In plpgsql, because an SQL function would be planned again at every call.
create or replace function complete_job_run(
  p_run_id uuid, p_rows_processed integer default 0, p_rows_skipped integer default 0, p_transactions integer default 0)
returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  if p_rows_processed < 0 or p_rows_skipped < 0 then
    raise sqlstate '22023' using message = 'a count must not be negative';
  end if;
  update cron_job_runs
  set status = 'succeeded', completed_at = v_now, error_message = null,
      rows_processed = coalesce(p_rows_processed, rows_processed), rows_skipped = coalesce(p_rows_skipped, rows_skipped),
      duration_ms = pgonce_elapsed_ms(started_at, v_now)
  where id = p_run_id and status || '' = 'running' and transactions >= p_transactions;
  if found then return true; end if;
  perform pgonce_check_job_run_transactions(p_run_id, p_transactions);
  return pgonce_has_job_run_ended(p_run_id, 'succeeded', null);
end $$;
comment on function complete_job_run(uuid, integer, integer, integer) is
  'pgonce: ends the run as succeeded. true, also when repeated after a lost answer; false = it was taken over or has failed. A '
  'count of null leaves the stored one as it is. PT409 = the database has fewer than the p_transactions that were confirmed to '
  'the caller: a failover has lost some, and the run has not succeeded.';

create or replace function fail_job_run(p_run_id uuid, p_error_message text) returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_retries integer;
begin
  update cron_job_runs
  set status = 'failed', completed_at = v_now, error_message = p_error_message,
      duration_ms = pgonce_elapsed_ms(started_at, v_now)
  where id = p_run_id and status || '' = 'running'
  returning retries into v_retries;
  if not found then return pgonce_has_job_run_ended(p_run_id, 'failed', p_error_message); end if;
  if v_retries > 0 then perform pgonce_plan_job_retry(p_run_id); end if;
  return true;
end $$;
comment on function fail_job_run(uuid, text) is
  'pgonce: ends the run as failed, with the reason. true, also when repeated after a lost answer; false = it was taken over or has ended.';
