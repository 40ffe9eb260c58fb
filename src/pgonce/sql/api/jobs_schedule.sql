-- What else happens to a run besides its start and end: progress reports, stops, interruptions, the sweep of dead runs, and
-- retries.
--
-- "to" is the state of the run that the verb names. For pgonce_retry_job_run it is the state of the new row. "none":
-- nothing is written.
--   due       failed, with an attempt left that is due
--   stopping  running, and somebody has asked it to stop
--
-- transitions
-- from      | verb             | to        | because
-- absent    | pgonce_report_job_run   | PT404     | no such run
-- running   | pgonce_report_job_run   | running   | still yours; the figures are written
-- stopping  | pgonce_report_job_run   | stopping  | still yours, but asked to stop
-- stale     | pgonce_report_job_run   | running   | late, but nobody took it over
-- succeeded | pgonce_report_job_run   | lost      | it has ended
-- failed    | pgonce_report_job_run   | lost      | it has ended, or was taken over
-- due       | pgonce_report_job_run   | lost      | it has ended
-- skipped   | pgonce_report_job_run   | lost      | it never ran
-- absent    | pgonce_stop_job_run     | PT404     | no such run
-- running   | pgonce_stop_job_run     | stopping  | cooperative: the run reads it at its next heartbeat
-- stopping  | pgonce_stop_job_run     | stopping  | it was asked before; the time of the first request is kept
-- stale     | pgonce_stop_job_run     | stopping  | if its process is still alive, it ends the run
-- succeeded | pgonce_stop_job_run     | false     | it has ended
-- failed    | pgonce_stop_job_run     | false     | it has ended
-- due       | pgonce_stop_job_run     | failed    | its retries are cancelled
-- skipped   | pgonce_stop_job_run     | false     | it never ran
-- absent    | pgonce_interrupt_job_run | PT404   | no such run
-- running   | pgonce_interrupt_job_run | due     | its process is stopping: closed as failed, and due again at once
-- stopping  | pgonce_interrupt_job_run | failed  | an operator asked it to stop: it is not started again
-- stale     | pgonce_interrupt_job_run | due     | late, but nobody took it over
-- succeeded | pgonce_interrupt_job_run | false   | it has succeeded
-- failed    | pgonce_interrupt_job_run | false   | it has failed already
-- due       | pgonce_interrupt_job_run | false   | it has failed already
-- skipped   | pgonce_interrupt_job_run | false   | it never ran
-- absent    | pgonce_retry_job_run    | none      | purged meanwhile
-- running   | pgonce_retry_job_run    | none      | it has not failed
-- stopping  | pgonce_retry_job_run    | none      | it has not failed
-- stale     | pgonce_retry_job_run    | none      | it has not been closed yet
-- succeeded | pgonce_retry_job_run    | none      | nothing to retry
-- failed    | pgonce_retry_job_run    | none      | no attempt left, or it was retried already
-- due       | pgonce_retry_job_run    | running   | the next attempt; or none, and postponed, while another run is running
-- skipped   | pgonce_retry_job_run    | none      | it never ran

create or replace function pgonce_report_job_run(
  p_run_id uuid, p_rows_processed integer default 0, p_rows_skipped integer default 0,
  p_progress_done bigint default null, p_progress_total bigint default null, p_transactions integer default 0) returns text
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_stop timestamptz;
begin
  -- The row is locked first: pgonce_keep_heartbeats_apart waits for this lock.
  select stop_requested_at into v_stop from cron_job_runs
  where id = p_run_id and status || '' = 'running' for no key update;
  if found then
    update pgonce_job_heartbeats set heartbeat_at = clock_timestamp() where run_id = p_run_id;
    if not found then
      update cron_job_runs
      set heartbeat_at = clock_timestamp(), rows_processed = p_rows_processed, rows_skipped = p_rows_skipped,
          progress_done = p_progress_done, progress_total = p_progress_total,
          progress_at = case when (rows_processed, rows_skipped, progress_done) is distinct from
                               (p_rows_processed, p_rows_skipped, p_progress_done) then clock_timestamp() else progress_at end
      where id = p_run_id and transactions >= p_transactions;
      if not found then  -- a failover has lost commits: the caller's counts include rows that are no longer in the database
        update cron_job_runs set heartbeat_at = clock_timestamp() where id = p_run_id;
      end if;
    end if;
    return case when v_stop is null then 'running' else 'stopping' end;
  end if;
  if not exists (select from cron_job_runs where id = p_run_id) then
    raise sqlstate 'PT404' using message = format('there is no job run %s', p_run_id);
  end if;
  return 'lost';
end $$;
comment on function pgonce_report_job_run(uuid, integer, integer, bigint, bigint, integer) is
  'pgonce: a heartbeat that also records the progress of the run. running = still yours; stopping = still yours, but somebody '
  'asked it to stop; lost = it was taken over or has ended. If the database has fewer than p_transactions transactions of the '
  'run, the counts are not changed.';

create or replace function pgonce_stop_job_run(p_run_id uuid) returns boolean
language plpgsql set search_path from current as $$
begin
  perform pgonce_lock_job_run(p_run_id);
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
  'pgonce: asks a run to stop, and cancels its retries. The run reads the request at its next heartbeat and ends as failed. '
  'false = it has ended.';

create or replace function pgonce_interrupt_job_run(p_run_id uuid, p_error_message text) returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_retries integer := (select retries from cron_job_runs where id = p_run_id);
begin
  -- The run gets one retry more than it had: a failure that will be retried causes no alert, unless nobody retries it.
  update cron_job_runs
  set status = 'failed', completed_at = v_now, error_message = p_error_message, retries = greatest(retries, attempt),
      backoff = coalesce(backoff, interval '1 minute'),
      duration_ms = pgonce_elapsed_ms(started_at, v_now)
  where id = p_run_id and status || '' = 'running';
  if not found then return pgonce_has_job_run_ended(p_run_id, 'failed', p_error_message); end if;
  insert into pgonce_job_retries (run_id, job_name, due_at, counted, retries)
  select id, job_name, v_now, false, v_retries from cron_job_runs where id = p_run_id and stop_requested_at is null
  on conflict do nothing;
  return true;
end $$;
comment on function pgonce_interrupt_job_run(uuid, text) is
  'pgonce: closes a run as failed because its process is stopping. The run is due again at once, for any worker that has the '
  'job, and the interruption does not count as an attempt. true, also when repeated; false = it was taken over or has ended.';

create or replace function pgonce_is_interruption(p_error_message text) returns boolean
language sql immutable parallel safe set search_path from current as $$
  -- no LIKE: a command's last words on stderr may begin alike
  select p_error_message in ('worker stopped', 'the answer to its start was lost: nothing was run')
$$;
comment on function pgonce_is_interruption(text) is
  'pgonce: whether a failed run with this message did not fail by itself: a worker closed it with pgonce_interrupt_job_run.';

create or replace function pgonce_abandon_job_runs() returns integer
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  r record;
  v_closed integer := 0;
  v_name text;
  v_key text;
begin
  perform pgonce_correct_heartbeats();
  -- A retry, too, would wait until the clock has caught up.
  update pgonce_job_retries
  set due_at = clock_timestamp() + (due_at - (select f.completed_at from cron_job_runs f where f.id = run_id))
  where run_id in (
    select d.run_id from pgonce_job_retries d join cron_job_runs f on f.id = d.run_id
    where f.completed_at > clock_timestamp() + interval '1 minute' and d.due_at >= f.completed_at for update of d skip locked);
  -- In a fixed order: two concurrent sweeps lock the same rows, and neither waits (skip locked) nor deadlocks.
  for r in
    select job_name, key from cron_job_runs
    where status = 'running' and (heartbeat_at + run_window <= clock_timestamp() or heartbeat_at > clock_timestamp() + interval '1 minute')
    order by job_name, key loop
    begin
      if pgonce_abandon_job_run(r.job_name, r.key) then v_closed := v_closed + 1; end if;
    exception when others then  -- a trigger of the application refuses this run: it must not keep the others open
      v_name := r.job_name;
      v_key := r.key;
    end;
  end loop;
  if v_closed = 0 and v_name is not null then  -- nothing is rolled back by it: raise the error of the last one again
    perform pgonce_abandon_job_run(v_name, v_key);
  end if;
  return v_closed;
end $$;
comment on function pgonce_abandon_job_runs() is
  'pgonce: the sweep: closes every run that has sent no heartbeat for its whole window, as pgonce_abandon_job_run does. '
  'Returns the number closed. If the database refuses to close some, the others are closed, and the error is raised by the call '
  'that closes none.';

-- A scheduler calls this for the jobs that it has.
create or replace function pgonce_due_job_retries(p_job_names text[])
returns table (id uuid, job_name text, key text, scope jsonb, run_window interval, scheduled_for timestamptz)
language sql set search_path from current as $$
  select r.id, r.job_name, r.key, r.scope, r.run_window, coalesce(r.scheduled_for, r.for_tick)
  from pgonce_job_retries d join cron_job_runs r on r.id = d.run_id
  where d.due_at <= clock_timestamp() and d.job_name = any (p_job_names)
  order by d.due_at limit 100
$$;
comment on function pgonce_due_job_retries(text[]) is
  'pgonce: the first 100 failed runs of these jobs whose retry is due, with the tick of the first attempt. pgonce_retry_job_run starts a '
  'retry.';

create or replace function pgonce_retry_job_run(
  p_run_id uuid, p_process text default null, p_slots integer default null, p_retry_id uuid default null)
returns uuid
language plpgsql set search_path from current as $$
declare
  r cron_job_runs;
  v_counted boolean;
  v_retries integer;
  v_id uuid;
  v_key text;
  v_keys text[];
  v_base text;
  v_slots integer;
begin
  -- skip locked: the session that holds the lock is starting this retry
  select counted, retries into v_counted, v_retries from pgonce_job_retries where run_id = p_run_id for update skip locked;
  if not found then return (select id from cron_job_runs where id = p_retry_id); end if;
  select * into r from cron_job_runs where id = p_run_id;
  if found and exists (select from pgonce_job_pauses where job_name = r.job_name and coalesce(paused_until, 'infinity') > clock_timestamp()) then
    update pgonce_job_retries set due_at = clock_timestamp() + interval '1 minute' where run_id = p_run_id;
    return null;
  end if;
  v_key := r.key;
  v_keys := array[r.key];
  v_base := regexp_replace(r.key, '#[0-9]+$', '');
  if exists (select from pgonce_job_schedules s where s.job_name = r.job_name and s.key = r.key) then v_base := r.key; end if;
  select s.slots into v_slots from pgonce_job_schedules s where s.job_name = r.job_name and s.key = v_base;
  -- In any slot: that of the first attempt may be taken, or may be one of an earlier release that had more. If this release has no
  -- slots, and the first attempt was in one, no other run of the job may be running.
  if p_slots is not null or v_slots is not null and v_base <> r.key then
    v_keys := r.key || pgonce_slot_keys(v_base, greatest(p_slots, v_slots));
    perform pg_advisory_xact_lock(hashtextextended('pgonce slots ' || current_schema() || chr(10) || r.job_name || chr(10) || v_base, 0));
    select case when c.is_free then case when p_slots is null then v_base else c.slot end end into v_key
    from pgonce_choose_job_slot(coalesce(p_slots, 1), r.job_name, v_base) c;
  end if;
  -- A newer tick does the same work, so the retry is dropped. Otherwise, with "* * * * *" and a backoff of a minute, each
  -- retry would collide with the next tick forever. With catch_up "all" each tick is work of its own.
  if r.id is not null and not exists (
    select from cron_job_runs n
    where n.job_name = r.job_name and n.key = any (v_keys) and n.started_at > r.started_at and n.scheduled_for is not null
      and n.status <> 'skipped' and n.scope is not distinct from r.scope
      and not exists (select from pgonce_job_schedules s where s.job_name = r.job_name and s.key = v_base and s.catch_up = 'all')) then
    insert into cron_job_runs (id, job_name, scope, key, run_window, started_at, retries, backoff, attempt, retry_of, for_tick, process)
    select coalesce(p_retry_id, gen_random_uuid()), r.job_name, r.scope, v_key, r.run_window, clock_timestamp(), case when v_counted then r.retries else v_retries end,
           r.backoff, r.attempt + v_counted::integer, r.id, coalesce(r.scheduled_for, r.for_tick), p_process
    where v_key is not null
    on conflict do nothing
    returning id into v_id;
    if not found then
      update pgonce_job_retries set due_at = clock_timestamp() + coalesce(r.backoff, interval '1 minute') where run_id = p_run_id;
      return null;
    end if;
  end if;
  delete from pgonce_job_retries where run_id = p_run_id;
  return v_id;
end $$;
comment on function pgonce_retry_job_run(uuid, text, integer, uuid) is
  'pgonce: starts the next attempt of a failed run and returns its id. null = another worker has started it; or there is '
  'nothing to retry; or a newer tick of the job has done the work; or another run of the job is running or the job is paused, '
  'and the retry is postponed. p_process: host:pid of the process that runs it. p_slots: how many runs of the job may run at '
  'the same time; the retry uses any of its slots. p_retry_id: the id of the retry; if the answer is lost, the same call has it again.';
