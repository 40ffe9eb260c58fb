-- What an operator does with jobs at run time: end a run, pause a job, ask for a run, expect a job to run, limit it to N at once.
--
--   due       failed, with a retry planned
--   stopping  running, and an operator has asked it to stop
--
-- transitions
-- from      | verb               | to     | because
-- absent    | pgonce_end_job_run | PT404  | no such run
-- running   | pgonce_end_job_run | failed | closed by hand: a process that still runs it can commit nothing
-- stopping  | pgonce_end_job_run | failed | closed by hand: it did not stop
-- stale     | pgonce_end_job_run | failed | closed by hand: nobody has to wait for its window
-- succeeded | pgonce_end_job_run | false  | it has ended
-- failed    | pgonce_end_job_run | false  | it has ended
-- due       | pgonce_end_job_run | false  | it has ended
-- skipped   | pgonce_end_job_run | false  | it never ran

create or replace function pgonce_end_job_run(p_run_id uuid, p_reason text) returns boolean
language plpgsql set search_path from current as $$
declare
  v_now timestamptz;
begin
  if pgonce_is_job_run_locked(p_run_id) then
    perform pg_terminate_backend(pid) from pg_stat_activity
    where application_name = 'pgonce ' || p_run_id::text and usename = current_user and pid <> pg_backend_pid();
  end if;
  perform pgonce_lock_job_run(p_run_id);
  v_now := clock_timestamp();
  update cron_job_runs
  set status = 'failed', completed_at = v_now, error_message = 'ended by hand: ' || coalesce(nullif(p_reason, ''), 'no reason given'),
      duration_ms = pgonce_elapsed_ms(started_at, v_now)
  where id = p_run_id and status || '' = 'running';
  if not found then
    if not exists (select from cron_job_runs where id = p_run_id) then
      raise sqlstate 'PT404' using message = format('there is no job run %s', p_run_id);
    end if;
    return false;
  end if;
  -- An open transaction of the run would keep its locks. It may be a COPY, which no timeout ends.
  perform pg_terminate_backend(pid) from pg_stat_activity
  where application_name = 'pgonce ' || p_run_id::text and usename = current_user and pid <> pg_backend_pid();
  return true;
end $$;
comment on function pgonce_end_job_run(uuid, text) is
  'pgonce: closes a running run as failed, for a reason; it is not retried. This is safe while its process is alive: what the '
  'process still writes through the run is not committed. false = it has ended.';

create or replace function pgonce_match_job_runs(p_first uuid, p_last uuid) returns setof uuid
language sql stable set search_path from current set jit = off as $$
  select id from cron_job_runs where id between p_first and p_last order by id limit 5
$$;
comment on function pgonce_match_job_runs(uuid, uuid) is
  'pgonce: the first five runs whose ids are in a range, which means that they begin with the same digits.';

create or replace function pgonce_check_job_name(p_job_name text, p_key text) returns void
language plpgsql immutable set search_path from current as $$
begin
  if coalesce(p_job_name, '') = '' then
    raise sqlstate '22023' using message = 'the job name must not be empty';
  elsif octet_length(p_job_name || coalesce(p_key, '')) > 2500 then  -- an entry of an index holds 2,704, and a tick is in it, too
    raise sqlstate '22023' using message = format('the job name and the key have %s bytes, and may have 2,500 together',
      trim(to_char(octet_length(p_job_name || coalesce(p_key, '')), '999,999,999')));
  end if;
end $$;
comment on function pgonce_check_job_name(text, text) is
  'pgonce: raises 22023 for the name and key of a job that no run could have: an empty name, or more than 2,500 bytes.';

create or replace function pgonce_pause_job(p_job_name text, p_reason text, p_until timestamptz default null) returns void
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_job_name(p_job_name, '');
  if p_until <= clock_timestamp() then raise sqlstate '22023' using message = 'the end of a pause must be in the future'; end if;
  insert into pgonce_job_pauses as p (job_name, reason, paused_until)
  values (p_job_name, coalesce(nullif(p_reason, ''), 'no reason given'), nullif(p_until, 'infinity'))  -- null: without an end
  on conflict (job_name) do update set reason = excluded.reason, paused_until = excluded.paused_until;
end $$;
comment on function pgonce_pause_job(text, text, timestamptz) is
  'pgonce: from now on no run of this job starts. Each attempt to start one leaves a skipped row with the reason. p_until: '
  'null = until pgonce_resume_job. Runs that are already running continue.';

create or replace function pgonce_resume_job(p_job_name text) returns boolean
language plpgsql set search_path from current as $$
begin
  delete from pgonce_job_pauses where job_name = p_job_name;
  if not found then return false; end if;
  update pgonce_job_expectations set since = clock_timestamp() where job_name = p_job_name;
  return true;
end $$;
comment on function pgonce_resume_job(text) is 'pgonce: ends the pause of a job. false = it was not paused.';

create or replace function pgonce_request_job_run(p_job_name text, p_scope jsonb default '{}', p_key text default null) returns uuid
language plpgsql set search_path from current as $$
declare
  v_id uuid;
begin
  perform pgonce_check_job_name(p_job_name, p_key);
  delete from pgonce_job_requests where requested_at < clock_timestamp() - interval '7 days';
  insert into pgonce_job_requests (job_name, scope, key) values (p_job_name, coalesce(p_scope, '{}'), p_key) returning id into v_id;
  return v_id;
end $$;
comment on function pgonce_request_job_run(text, jsonb, text) is
  'pgonce: requests a run of this job. A worker that has the job starts it within some 15 s. p_key: null = the key that the '
  'job is registered with. A request that no worker starts within an hour expires.';

create or replace function pgonce_open_job_requests(p_job_names text[])
returns table (id uuid, job_name text, key text, scope jsonb)
language sql set search_path from current as $$
  select q.id, q.job_name, q.key, q.scope from pgonce_job_requests q
  where q.answered_at is null and q.job_name = any (p_job_names) and q.requested_at > clock_timestamp() - interval '1 hour'
  order by q.requested_at limit 100
$$;
comment on function pgonce_open_job_requests(text[]) is
  'pgonce: the requests for runs of these jobs that no worker has started yet, for a scheduler. pgonce_start_requested_job_run '
  'starts one.';

-- The answer and the run commit together: a worker that dies in between leaves the request open for another one.
create or replace function pgonce_start_requested_job_run(
  p_request_id uuid, p_key text default '', p_window interval default '15 minutes', p_retries integer default 0,
  p_backoff interval default '1 minute', p_process text default null, p_slots integer default null, p_run_id uuid default null)
returns uuid
language plpgsql set search_path from current as $$
declare
  q pgonce_job_requests;
  v_run uuid;
begin
  -- it may have waited for a thread of a worker
  select * into q from pgonce_job_requests
  where id = p_request_id and answered_at is null and requested_at > clock_timestamp() - interval '1 hour' for update skip locked;
  if not found then return (select run_id from pgonce_job_requests where id = p_request_id and run_id = p_run_id); end if;
  if p_slots is null then
    v_run := start_job_run(q.job_name, q.scope, p_window, coalesce(q.key, p_key), null, p_retries, p_backoff, p_process, p_run_id);
  else
    v_run := pgonce_start_job_run_in_slot(
      p_slots, q.job_name, q.scope, p_window, coalesce(q.key, p_key), null, p_retries, p_backoff, p_process, p_run_id);
  end if;
  update pgonce_job_requests
  set answered_at = clock_timestamp(), run_id = v_run, answer = case
    when v_run is not null then format('started by %s', coalesce(p_process, 'an unnamed process'))
    else (select r.error_message || coalesce(' by ' || b.process, '') from cron_job_runs r left join cron_job_runs b on b.id = r.blocked_by
          where r.job_name = q.job_name and pgonce_is_slot_key(r.key, coalesce(q.key, p_key)) and r.status = 'skipped' and r.started_at >= now()
          order by r.started_at desc limit 1) end
  where id = p_request_id;
  return v_run;
end $$;
comment on function pgonce_start_requested_job_run(uuid, text, interval, integer, interval, text, integer, uuid) is
  'pgonce: starts the run that a request asks for, and answers the request, in one transaction. Returns the run''s id. null = '
  'another worker has started it, or another run is running (the answer names it), or the job is paused.';

create or replace function pgonce_get_job_request(p_request_id uuid)
returns table (answered boolean, run_id uuid, answer text)
language sql stable set search_path from current set jit = off as $$
  select q.answered_at is not null, q.run_id, q.answer from pgonce_job_requests q where q.id = p_request_id
$$;
comment on function pgonce_get_job_request(uuid) is 'pgonce: the outcome of a request for a run.';

create or replace function pgonce_schedule_job(
  p_job_name text, p_key text, p_cron text, p_timezone text, p_next_tick timestamptz, p_upcoming timestamptz[], p_grace interval,
  p_catch_up text, p_scope jsonb)
returns void
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_job_name(p_job_name, p_key);
  insert into pgonce_job_schedules as s (job_name, key, cron, timezone, next_tick, upcoming, grace, catch_up, scope, source)
  values (p_job_name, p_key, p_cron, p_timezone, p_next_tick, p_upcoming, p_grace, p_catch_up, p_scope, 'operator')
  on conflict (job_name, key) do update
  set cron = excluded.cron, timezone = excluded.timezone, next_tick = excluded.next_tick, upcoming = excluded.upcoming,
      grace = excluded.grace, catch_up = excluded.catch_up, scope = excluded.scope, source = 'operator', updated_at = clock_timestamp();
end $$;
comment on function pgonce_schedule_job(text, text, text, text, timestamptz, timestamptz[], interval, text, jsonb) is
  'pgonce: writes a schedule of a job. It replaces the schedule with the same key that an app registered, and workers that '
  'have the job follow it.';

create or replace function pgonce_unschedule_job(p_job_name text, p_key text default '') returns boolean
language plpgsql set search_path from current as $$
begin
  delete from pgonce_job_schedules where job_name = p_job_name and key = p_key;
  return found;
end $$;
comment on function pgonce_unschedule_job(text, text) is
  'pgonce: deletes a schedule. A live process that has it in its code registers it again. false = there is none.';

create or replace function pgonce_list_job_schedules()
returns table (job_name text, key text, cron text, timezone text, next_tick timestamptz, source text, app text, scope jsonb)
language sql stable set search_path from current set jit = off as $$
  select s.job_name, s.key, s.cron, s.timezone, t.tick, s.source, s.app, s.scope from pgonce_job_schedules s
  cross join lateral (
    select coalesce((select min(u) from unnest(s.next_tick || s.upcoming) u where u > clock_timestamp()), s.next_tick) as tick) t
  order by s.job_name, s.key
$$;
comment on function pgonce_list_job_schedules() is 'pgonce: the schedules of all jobs, with the next tick of each.';

create or replace function pgonce_expect_job(
  p_job_name text, p_every interval, p_grace interval default '5 minutes', p_key text default '', p_within interval default null)
returns void
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_job_name(p_job_name, p_key);
  if p_every is null and p_within is null or p_every not between '1 second' and '100 years'
     or p_within not between '1 second' and '100 years' or (p_grace between '0' and '100 years') is not true then
    raise sqlstate '22023' using message =
      'give every or within: each must be at least a second, grace must not be negative, and all at most 100 years';
  end if;
  insert into pgonce_job_expectations as e (job_name, key, every, grace, within) values (p_job_name, p_key, p_every, p_grace, p_within)
  on conflict (job_name, key) do update
  set since = case when excluded.every <> e.every or e.every is null then excluded.since else e.since end,
      every = coalesce(excluded.every, e.every), grace = case when excluded.every is null then e.grace else excluded.grace end,
      within = coalesce(excluded.within, e.within), app = case when excluded.every is null then e.app end
  where (e.every, e.grace, e.within) is distinct from (
    coalesce(excluded.every, e.every), case when excluded.every is null then e.grace else excluded.grace end,
    coalesce(excluded.within, e.within));
end $$;
comment on function pgonce_expect_job(text, interval, interval, text, interval) is
  'pgonce: from now on the job must run at least every p_every, and each run must take less than p_within, no matter what starts it. The '
  'first interval begins now, and again when p_every changes or a pause ends. '
  'Null leaves what was expected before. If it has not run p_grace later, it is in pgonce_job_missed. Of both an alert is sent.';

create or replace function pgonce_is_expected_key(p_key text, p_expected text) returns boolean
language sql immutable parallel safe set search_path from current as $$
  select p_expected = '' or pgonce_is_slot_key(p_key, p_expected)
$$;
comment on function pgonce_is_expected_key(text, text) is
  'pgonce: whether what is expected of runs with the key p_expected (empty: of all) is expected of a run with the key p_key. A slot of '
  'the key counts as the key.';

create or replace function pgonce_forget_job_expectation(p_job_name text, p_key text default '') returns boolean
language plpgsql set search_path from current as $$
begin
  delete from pgonce_job_expectations where job_name = p_job_name and key = p_key;
  return found;
end $$;
comment on function pgonce_forget_job_expectation(text, text) is
  'pgonce: nothing is expected of the job any more. false = nothing was.';

create or replace function pgonce_choose_job_slot(
  p_slots integer, p_job_name text, p_key text, out slot text, out is_free boolean)
language plpgsql set search_path from current as $$
declare
  v_busy text[];
begin
  -- A run with its heartbeats apart has an old one in its row. If it counted as dead, its slot would be chosen before that of a
  -- run that is dead, and each start would be skipped.
  select array_agg(r.key order by r.started_at) into v_busy from cron_job_runs r
  where r.job_name = p_job_name and r.status = 'running' and pgonce_is_slot_key(r.key, p_key)
    and (r.heartbeat_at + r.run_window > clock_timestamp() or pgonce_has_heartbeat(r.id, r.run_window));
  is_free := coalesce(cardinality(v_busy), 0) < p_slots;
  if not is_free then
    slot := v_busy[1];
    return;
  end if;
  -- a free slot, or else one whose run has sent no heartbeat for its window
  select k.key into slot from unnest(pgonce_slot_keys(p_key, p_slots)) with ordinality as k (key, number)
  left join cron_job_runs r on r.job_name = p_job_name and r.key = k.key and r.status = 'running'
  where k.number > 1 and k.key <> all (coalesce(v_busy, '{}'))
  order by r.id is not null, r.started_at, k.number limit 1;
end $$;
comment on function pgonce_choose_job_slot(integer, text, text) is
  'pgonce: a slot for a start; if none is free, that of the run that started first. The runs in all slots count, of whatever release. The '
  'caller holds the lock of the job''s slots.';

-- At most N runs at the same time: each slot is a key of its own, key#1 to key#N, so a slot cannot have two running runs. While
-- a release with another number of slots, or without slots, is being replaced, its runs count, too.
-- Starts of one job wait for each other at the lock. Otherwise two concurrent starts would choose the same slot, and one
-- would be skipped although another slot is free.
create or replace function pgonce_start_job_run_in_slot(
  p_slots integer, p_job_name text, p_scope jsonb default '{}', p_window interval default '15 minutes', p_key text default '',
  p_scheduled_for timestamptz default null, p_retries integer default 0, p_backoff interval default '1 minute',
  p_process text default null, p_run_id uuid default null)
returns uuid
language plpgsql set search_path from current as $$
declare
  v_key text;
begin
  if (p_slots between 1 and 1000) is not true then
    raise sqlstate '22023' using message = 'the number of slots must be from 1 to 1000';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('pgonce slots ' || current_schema() || chr(10) || p_job_name || chr(10) || p_key, 0));
  if p_scheduled_for is not null then
    -- Without a schedule nothing says how many slots another release has: then all that it may have are looked up.
    if exists (
      select from cron_job_runs where job_name = p_job_name and scheduled_for = p_scheduled_for and id is distinct from p_run_id
        and key = any (pgonce_slot_keys(p_key, coalesce(
        (select greatest(s.slots, p_slots) from pgonce_job_schedules s where s.job_name = p_job_name and s.key = p_key), 1000)))) then
      return null;  -- it has fired in one of the slots
    end if;
    update pgonce_job_schedules set slots = p_slots where job_name = p_job_name and key = p_key and coalesce(slots, 0) < p_slots;
  end if;
  v_key := (pgonce_choose_job_slot(p_slots, p_job_name, p_key)).slot;
  return start_job_run(p_job_name, p_scope, p_window, v_key, p_scheduled_for, p_retries, p_backoff, p_process, p_run_id);
end $$;
comment on function pgonce_start_job_run_in_slot(integer, text, jsonb, interval, text, timestamptz, integer, interval, text, uuid) is
  'pgonce: start_job_run for a job of which p_slots runs may run at the same time. It uses a free key of key#1, key#2 and so '
  'on. null = all are taken, or the tick has fired.';
