-- When jobs run: the schedules that processes register, the next tick of each, and ticks that will not run.
--
-- Which process may write a schedule. The newest process is the one that started last, of the app's live processes with one of
-- these jobs.
--   A start registers its schedules, and deletes those that the app's earlier start registered and it does not have.
--   A process of an older release that is still running moves next_tick of existing rows. It inserts nothing, because a schedule
--   that a newer start deleted must stay deleted, and it does not fire its ticks. If it becomes the newest (the newer one stopped or died), it registers again.
--   A clean stop deletes the schedules that no other live process has, if another process of the app is live. If none is, the
--   service is down, and its schedules stay, so that missed ticks cause alerts.
--   Only `pgonce job schedule` changes a row that an operator wrote.

create or replace function pgonce_slot_keys(p_key text, p_slots integer) returns text[]
language sql immutable set search_path from current as $$
  select array(select p_key union all select p_key || '#' || n::text from generate_series(1, p_slots) n)
$$;
comment on function pgonce_slot_keys(text, integer) is
  'pgonce: the keys of the runs of a job with this key: the key itself, and with slots (not null) key#1, key#2 and so on. While a '
  'release that adds slots to a job replaces one without them, the job has runs of both kinds.';

create or replace function pgonce_is_slot_key(p_run_key text, p_key text) returns boolean
language sql immutable parallel safe set search_path from current as $$
  select p_run_key = p_key or starts_with(p_run_key, p_key || '#') and substr(p_run_key, length(p_key) + 2) ~ '^[1-9][0-9]{0,3}$'
$$;
comment on function pgonce_is_slot_key(text, text) is
  'pgonce: whether a run with the key p_run_key is one of the job''s runs with the key p_key, in any slot of any release, or without slots.';

create or replace function pgonce_register_job_schedules(
  p_process_id uuid, p_app text, p_registered_with text, p_schedules jsonb, p_expectations jsonb default null)
returns boolean
language plpgsql set search_path from current as $$
declare
  v_jobs text[];  -- with a schedule or without one: a release may have taken the last schedule away
  v_started_at timestamptz;
begin
  -- Registrations and clean stops run one at a time: each must see what the others have written.
  perform pg_advisory_xact_lock(hashtextextended('pgonce job schedules ' || current_schema(), 0));
  select started_at, jobs into v_started_at, v_jobs from pgonce_processes where id = p_process_id;
  if not found or exists (select from pgonce_live_processes p
             where p.does = 'jobs' and p.app = p_app and p.id <> p_process_id and p.started_at > v_started_at and p.jobs && v_jobs) then
    return false;
  end if;
  -- What the app has expected of its jobs is deleted in the same way as its schedules, see below. An operator's limit of time stays.
  with given_up as (
    select e.job_name, e.key, e.within from pgonce_job_expectations e
    where p_expectations is not null and e.app = p_app
      and e.registered_with in (select k.registered_with from pgonce_job_schedules k where k.job_name = any (v_jobs) union all
                                select k.registered_with from pgonce_job_expectations k where k.job_name = any (v_jobs))
      and (e.job_name, e.key) not in (select g.job_name, g.key from jsonb_to_recordset(p_expectations) as g (job_name text, key text))),
  limited as (
    update pgonce_job_expectations e set every = null, app = null from given_up g
    where (e.job_name, e.key) = (g.job_name, g.key) and g.within is not null)
  delete from pgonce_job_expectations e using given_up g where (e.job_name, e.key) = (g.job_name, g.key) and g.within is null;
  perform pgonce_expect_job(g.job_name, g.every, g.grace, g.key)
  from (select * from jsonb_to_recordset(p_expectations) as g (job_name text, key text, every interval, grace interval)
        order by g.job_name, g.key) g;
  update pgonce_job_expectations e set app = p_app, registered_with = p_registered_with
  from jsonb_to_recordset(p_expectations) as g (job_name text, key text)
  where (e.job_name, e.key) = (g.job_name, g.key) and (e.app, e.registered_with) is distinct from (p_app, p_registered_with);
  -- Not all other schedules are deleted. Another app on this database that is down for a day would lose the ticks that it has
  -- to catch up, and its rows in pgonce_job_missed. A schedule is this app's if it was registered together with one of these,
  -- by an app of this name.
  delete from pgonce_job_schedules s
  where s.source = 'code' and s.app = p_app
    and s.registered_with in (select k.registered_with from pgonce_job_schedules k where k.job_name = any (v_jobs))
    and (s.job_name, s.key) not in (select g.job_name, g.key from jsonb_to_recordset(p_schedules) as g (job_name text, key text));
  insert into pgonce_job_schedules as s (job_name, key, cron, timezone, grace, catch_up, next_tick, upcoming, slots, app, registered_with)
  select g.*, p_app, p_registered_with
  from jsonb_to_recordset(p_schedules) as g (
    job_name text, key text, cron text, timezone text, grace interval, catch_up text, next_tick timestamptz, upcoming timestamptz[],
    slots integer)
  order by g.job_name, g.key
  on conflict (job_name, key) do update
  set cron = excluded.cron, timezone = excluded.timezone, grace = excluded.grace, catch_up = excluded.catch_up, app = excluded.app,
      registered_with = excluded.registered_with, updated_at = clock_timestamp(),
      slots = greatest(s.slots, excluded.slots),  -- the most it had: runs of an earlier release may be in the others
      -- a slower scheduler does not move a tick back; a changed schedule may
      next_tick = case when (s.cron, s.timezone) = (excluded.cron, excluded.timezone) and s.next_tick > excluded.next_tick
                       then s.next_tick else excluded.next_tick end,
      upcoming = case when (s.cron, s.timezone) = (excluded.cron, excluded.timezone) and s.next_tick > excluded.next_tick
                      then s.upcoming else excluded.upcoming end
  where s.source = 'code';
  return true;
end $$;
comment on function pgonce_register_job_schedules(uuid, text, text, jsonb, jsonb) is
  'pgonce: registers the schedules of a process''s jobs and how often they must run, as arrays of objects (p_expectations: null = what '
  'is expected stays). false = a newer start of the app is live, and its schedules hold; or the process has no row. What the app had '
  'before and this process does not have is deleted.';

create or replace function pgonce_retired_job_schedules(p_process_id uuid, p_app text, p_schedules jsonb)
returns table (job_name text, key text)
language sql stable set search_path from current set jit = off as $$
  select g.job_name, g.key from jsonb_to_recordset(p_schedules) as g (job_name text, key text, cron text, timezone text)
  left join pgonce_job_schedules s on s.job_name = g.job_name and s.key = g.key
  where (s.job_name is null or s.source = 'code' and (s.cron, s.timezone) <> (g.cron, g.timezone))
    and exists (
      -- one without a row has been silent for a day: it is not the newest start
      select from pgonce_live_processes p left join pgonce_processes me on me.id = p_process_id
      where p.does = 'jobs' and p.app = p_app and p.id <> p_process_id and (me.id is null or p.started_at > me.started_at)
        and p.jobs && array(select n.job_name from jsonb_to_recordset(p_schedules) as n (job_name text)))
$$;
comment on function pgonce_retired_job_schedules(uuid, text, jsonb) is
  'pgonce: which of a process''s schedules a newer start of its app has deleted or changed. The process does not fire them: under its '
  'new name, or at its new time, the same job may fire in the newer one.';

create or replace function pgonce_end_job_schedules(p_process_id uuid) returns integer
language plpgsql set search_path from current as $$
declare
  v_own pgonce_processes;
  v_deleted integer := 0;
begin
  perform pg_advisory_xact_lock(hashtextextended('pgonce job schedules ' || current_schema(), 0));
  delete from pgonce_processes where id = p_process_id returning * into v_own;
  if found and exists (select from pgonce_live_processes p where p.does = 'jobs' and p.app = v_own.app and p.jobs && v_own.jobs) then
    delete from pgonce_job_schedules s
    where s.source = 'code' and s.app = v_own.app and s.job_name = any (v_own.jobs)
      and not exists (select from pgonce_live_processes p where p.does = 'jobs' and s.job_name = any (p.jobs));
    get diagnostics v_deleted = row_count;
  end if;
  return v_deleted;
end $$;
comment on function pgonce_end_job_schedules(uuid) is
  'pgonce: a clean stop of a process that runs jobs: deletes its row, and, while another process of its app is live, the schedules that '
  'no live process has. Returns how many.';

create or replace function pgonce_read_job_schedules(p_job_names text[])
returns table (job_name text, key text, cron text, timezone text, grace interval, catch_up text, source text, scope jsonb,
               next_tick timestamptz, fired timestamptz)
language sql set search_path from current as $$
  select s.job_name, s.key, s.cron, s.timezone, s.grace, s.catch_up, s.source, s.scope, s.next_tick,
         (select max(l.tick) from unnest(pgonce_slot_keys(s.key, s.slots)) k cross join lateral (
            select max(r.scheduled_for) as tick from cron_job_runs r
            where r.job_name = s.job_name and r.key = k and r.scheduled_for is not null) l)
  from pgonce_job_schedules s where s.job_name = any (p_job_names)
$$;
comment on function pgonce_read_job_schedules(text[]) is
  'pgonce: the schedules of these jobs, for a scheduler, each with its next tick and the last one that has a row.';

create or replace function pgonce_plan_job_ticks(p_schedules jsonb) returns integer
language plpgsql set search_path from current as $$
declare
  v_written integer;
begin
  -- in a fixed order, so that two concurrent schedulers do not deadlock
  perform from pgonce_job_schedules s
  where (s.job_name, s.key) in (select g.job_name, g.key from jsonb_to_recordset(p_schedules) as g (job_name text, key text))
  order by s.job_name, s.key for update;
  update pgonce_job_schedules s set next_tick = g.next_tick, upcoming = g.upcoming, updated_at = clock_timestamp()
  from jsonb_to_recordset(p_schedules) as g (
    job_name text, key text, cron text, timezone text, next_tick timestamptz, upcoming timestamptz[])
  where s.job_name = g.job_name and s.key = g.key and s.cron = g.cron and s.timezone = g.timezone and s.next_tick < g.next_tick;
  get diagnostics v_written = row_count;
  return v_written;
end $$;
comment on function pgonce_plan_job_ticks(jsonb) is
  'pgonce: records the ticks of existing schedules: for each, the earliest tick that no scheduler has dealt with, and some '
  'after it. An older tick, or a tick of a schedule that has changed since, is ignored. Returns how many rows changed.';

create or replace function pgonce_skip_job_tick(p_job_name text, p_key text, p_scheduled_for timestamptz, p_reason text) returns boolean
language sql set search_path from current as $$
  with written as (
    insert into cron_job_runs (job_name, key, status, scheduled_for, started_at, completed_at, duration_ms, error_message)
    -- a tick of a paused job would not have run: it is not missed
    select p_job_name, p_key, 'skipped', p_scheduled_for, clock_timestamp(), clock_timestamp(), 0, coalesce(
      (select pgonce_pause_text(p.paused_until, p.reason) from pgonce_job_pauses p
       where p.job_name = p_job_name and coalesce(p.paused_until, 'infinity') > clock_timestamp()), p_reason)
    on conflict do nothing returning id)
  select exists (select from written)
$$;
comment on function pgonce_skip_job_tick(text, text, timestamptz, text) is
  'pgonce: records that a tick will not run, and why: p_reason, or that the job is paused. false = it has fired.';
