-- What the console shows of jobs and runs. Every read is bounded, and finds its rows by an index.

create or replace function pgonce_console_clock() returns timestamptz
language sql volatile set search_path from current as $$ select clock_timestamp() $$;
comment on function pgonce_console_clock() is 'pgonce: the database''s clock.';

create or replace function pgonce_console_job_names(p_after text default '', p_find text default null, p_limit integer default 100)
returns setof text
language plpgsql stable set search_path from current set jit = off as $$
declare
  v_find text := lower(p_find);
  v_names text[];
begin
  -- One index lookup for each name, because a job has many runs. A recursive query looks up a name in a fifth of the time that
  -- a loop needs, and goes no further than its limit. Imports have a page of their own.
  v_names := array(
    with recursive names as (
      (select r.job_name as name, 1 as nr from cron_job_runs r where r.job_name > coalesce(p_after, '') order by r.job_name limit 1)
      union all
      select n.name, p.nr + 1 from names p cross join lateral (
        select r.job_name as name from cron_job_runs r where r.job_name > p.name order by r.job_name limit 1) n
      where p.nr < 10000)
    select n.name from names n
    where case when v_find is null then n.name <> 'seed_runner' else position(v_find in lower(n.name)) > 0 end limit p_limit);
  return query
    select n.name from (
      select unnest(v_names)
      union select s.job_name from pgonce_job_schedules s
      union select e.job_name from pgonce_job_expectations e
      union select q.job_name from pgonce_job_pauses q) n (name)
    where n.name > coalesce(p_after, '') and (p_find is null or position(lower(p_find) in lower(n.name)) > 0)
    order by n.name limit p_limit;
end $$;
comment on function pgonce_console_job_names(text, text, integer) is
  'pgonce: the names of the jobs that have run, are scheduled, expected or paused: in order, after p_after, without seed_runner. p_find: '
  'all names that contain this text; at most 10,000 are searched.';

create or replace function pgonce_console_job_lanes(
  p_find text default null, p_name text default null, p_after_name text default null, p_after_key text default null,
  p_limit integer default 30, p_key text default null)
returns table (job_name text, key text, cron text, timezone text, grace interval, next_ticks timestamptz[], slots integer,
               paused_at timestamptz, paused_until timestamptz, paused_because text, run_id uuid, status text, started_at timestamptz,
               duration_ms integer, process text, stopping boolean, next_retry_at timestamptz)
language plpgsql stable set search_path from current set jit = off as $$
declare
  v_names text[] := case when p_name is not null then array[p_name]
    else array(select p_after_name where p_after_name is not null)
      || array(select n from pgonce_console_job_names(p_after_name, p_find, p_limit + 1) n) end;
begin
  return query
  with recent as (
    select n.name, r.* from unnest(v_names) n (name) cross join lateral (
      select distinct on (h.key) h.* from (
        select l.key, l.id, l.status, l.started_at, l.duration_ms, l.process, l.stop_requested_at,
               row_number() over (order by l.started_at desc) as place
        from (select * from cron_job_runs o where o.job_name = n.name order by o.job_name, o.started_at desc
              limit case when p_key is null then 100 else 5000 end) l) h
      where h.place <= 100 or h.key = p_key
      order by h.key, h.status = 'skipped', h.started_at desc) r),
  keys as (
    select r.name, r.key from recent r
    union select s.job_name, s.key from pgonce_job_schedules s where s.job_name = any (v_names)
    union select e.job_name, e.key from pgonce_job_expectations e where e.job_name = any (v_names)
    union select q.job_name, '' from pgonce_job_pauses q where q.job_name = any (v_names)),
  chosen as (
    select k.name, k.key from keys k
    where p_after_name is null or (k.name, k.key) > (p_after_name, p_after_key)
    order by k.key = p_key desc nulls last, k.name, k.key limit p_limit)
  select c.name, c.key, s.cron, s.timezone, s.grace, array_remove(s.next_tick || s.upcoming, null), s.slots,
         p.paused_at, p.paused_until, p.reason, r.id, r.status, r.started_at,
         coalesce(r.duration_ms, case when r.started_at is not null then  -- least() ignores nulls
           pgonce_elapsed_ms(r.started_at, clock_timestamp()) end), r.process,
         coalesce(r.status = 'running' and r.stop_requested_at is not null, false),
         (select d.due_at from pgonce_job_retries d where d.run_id = r.id)
  from chosen c
  left join pgonce_job_schedules s on s.job_name = c.name and s.key = c.key
  left join pgonce_job_pauses p on p.job_name = c.name and coalesce(p.paused_until, 'infinity') > clock_timestamp()
  left join recent r on r.name = c.name and r.key = c.key and r.status <> 'skipped'
  order by c.name, c.key;
end $$;
comment on function pgonce_console_job_lanes(text, text, text, text, integer, text) is
  'pgonce: a line for each job and key, in order, after (p_after_name, p_after_key): its schedule, its pause and its last run that was not '
  'skipped. p_find: only jobs whose names contain this text. p_name: only this job. Keys without a run among the last 100 of their job '
  'are left out, except p_key: it is among the lines if one of the last 5,000 has it.';

-- A day has 86,400 seconds and a figure some 500 places, so runs that begin at the same place are one mark. All figures of a page
-- together have p_marks: a lane with more than its share gets fewer places.
create or replace function pgonce_console_job_marks(
  p_names text[], p_keys text[], p_from timestamptz, p_until timestamptz, p_places integer default 480, p_marks integer default 500)
returns table (job_name text, key text, kind text, began_at timestamptz, ended_at timestamptz, runs bigint, run_id uuid, blocked_by uuid)
language plpgsql stable set search_path from current set jit = off set plan_cache_mode = force_custom_plan as $$
declare
  v_now timestamptz := clock_timestamp();
  v_share integer := p_marks / greatest(cardinality(p_names), 1);
begin
  return query
  -- Sorted and grouped by the number of the lane: by its name, with a collation, that took half of the time.
  with lanes as (
    select l.name, l.key, l.nr::integer as nr, s.grace,
           (select r.id from cron_job_runs r where r.job_name = l.name and r.key = l.key and r.status = 'running') as at_work
    from unnest(p_names, p_keys) with ordinality l (name, key, nr)
    left join pgonce_job_schedules s on s.job_name = l.name and s.key = l.key),
  names as (select distinct l.name from lanes l),
  read as (
    select n.name, d.* from names n cross join lateral (
      select r.key, r.status, r.started_at, r.completed_at, r.scheduled_for, r.blocked_by,
             r.status = 'skipped' and r.error_message like 'paused%' as is_paused
      from cron_job_runs r
      where r.job_name = n.name and r.started_at >= p_from and r.started_at < p_until order by r.started_at desc limit 20000) d
    union all
    select n.name, d.* from names n cross join lateral (
      select r.key, r.status, r.started_at, r.completed_at, r.scheduled_for, r.blocked_by, false
      from cron_job_runs r
      where r.job_name = n.name and r.started_at < p_from order by r.job_name, r.started_at desc limit 50) d
    where coalesce(d.completed_at, v_now) > p_from and d.status <> 'skipped'),
  -- Few columns, and most of them null: each row is copied for the sort, the window and the readers of its result.
  marked as (
    select l.nr, r.started_at, nullif(r.blocked_by = l.at_work, false) as waits,
           case when r.status <> 'skipped' then coalesce(r.completed_at, v_now) end as ended_at,
           case when r.status <> 'skipped' then r.status when r.blocked_by is not null then 'skipped' when r.is_paused then 'paused' end as kind,
           case when r.scheduled_for < p_from then null  -- a tick that was given up, or whose run began after its grace
                when r.status <> 'skipped' and r.started_at > r.scheduled_for + l.grace
                  or r.status = 'skipped' and r.blocked_by is null and not r.is_paused then r.scheduled_for end as not_kept
    from read r join lanes l on l.name = r.name and l.key = r.key),
  busy as (
    select m.*, max(m.ended_at) over (
             partition by m.nr order by m.started_at rows between unbounded preceding and 1 preceding) as busy_until
    from marked m),
  found as (  -- waits: it was skipped because of the run that is at work now
    select b.nr, b.kind, b.waits, min(b.started_at) as began_at, max(coalesce(b.ended_at, b.started_at)) as ended_at, count(*) as runs,
           max(b.started_at) as newest_at
    from busy b where b.kind is not null
    group by b.nr, b.kind, b.waits, date_bin((p_until - p_from) / p_places, b.started_at, p_from)
    union all
    select b.nr, 'overlap', null, b.started_at, least(b.busy_until, b.ended_at), 1, b.started_at
    from busy b where b.ended_at is not null and b.started_at < b.busy_until
    union all
    select b.nr, case when b.ended_at is null then 'missed' else 'late' end, null, b.not_kept, b.started_at, 1, b.started_at
    from busy b where b.not_kept is not null
    union all  -- a tick that is overdue, as in pgonce_job_missed, which reads all jobs
    select l.nr, 'missed', null, t.tick, t.tick + s.grace, 1, null
    from lanes l join pgonce_job_schedules s on s.job_name = l.name and s.key = l.key
    cross join lateral (
      select max(f.tick) as tick from unnest(pgonce_slot_keys(s.key, s.slots)) k cross join lateral (
        select max(r.scheduled_for) as tick from cron_job_runs r
        where r.job_name = s.job_name and r.key = k and r.scheduled_for is not null) f) fired
    cross join lateral (
      select min(u) as tick from unnest(s.next_tick || s.upcoming) u where fired.tick is null or u > fired.tick) t
    where t.tick >= p_from and t.tick < p_until and t.tick + s.grace < v_now
      and not exists (select from pgonce_job_pauses p where p.job_name = l.name and coalesce(p.paused_until, 'infinity') > v_now)),
  sizes as (select f.nr, count(*) as marks from found f group by f.nr),
  places as (
    select (p_until - p_from) / greatest((p_marks - coalesce(sum(z.marks) filter (where z.marks <= v_share), 0))
             / nullif(count(*) filter (where z.marks > v_share), 0), 24)::float8 as width
    from sizes z),
  thin as (
    select f.nr, f.kind, f.waits, min(f.began_at) as began_at, max(f.ended_at) as ended_at, sum(f.runs)::bigint as runs,
           max(f.newest_at) as newest_at
    from found f join sizes z on z.nr = f.nr cross join places p
    group by f.nr, f.kind, f.waits, case when z.marks > v_share then date_bin(p.width, f.began_at, p_from) else f.began_at end)
  -- The newest of the runs of one place is looked up: to aggregate the ids in order took as long as all the rest.
  select l.name, l.key, t.kind, t.began_at, t.ended_at, t.runs, n.id, n.blocked_by
  from thin t join lanes l on l.nr = t.nr
  left join lateral (
    select r.id, r.blocked_by from cron_job_runs r
    where r.job_name = l.name and r.started_at = t.newest_at and r.key = l.key
      and (r.status = 'skipped') = (t.kind in ('skipped', 'paused', 'missed'))
    order by r.id desc limit 1) n on true
  order by t.nr, t.began_at;
end $$;
comment on function pgonce_console_job_marks(text[], text[], timestamptz, timestamptz, integer, integer) is
  'pgonce: what happened to these jobs and keys in a period: succeeded, failed, running, skipped (blocked), paused, missed, late (began '
  'after its grace), overlap. Runs of one kind that begin within the same 480th of the period are one row, with their number and the '
  'newest of their ids. Of a lane that would have more than its share of p_marks a part of the period is longer, at most a 24th.';

create or replace function pgonce_console_job_troubles()
returns table (happened_at timestamptz, job_name text, key text, kind text, run_id uuid, what text, action text, command text)
language plpgsql stable set search_path from current set jit = off set plan_cache_mode = force_custom_plan as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  return query
  with recent as materialized (
    select n.id, n.job_name, n.key, n.status, n.started_at, n.completed_at from cron_job_runs n
    where n.started_at > v_now - interval '7 days' order by n.started_at desc limit 5000),
  failed as (
    select r.* from recent r where r.status = 'failed' and r.job_name <> 'seed_runner' order by r.started_at desc limit 200),
  last_failed as (  -- of each job and key the newest; not if a later run has succeeded, or is running
    select distinct on (f.job_name, f.key) f.* from failed f order by f.job_name, f.key, f.started_at desc),
  ran as (
    select r.job_name, r.key, r.id, r.started_at,
           max(coalesce(r.completed_at, v_now)) over (
             partition by r.job_name collate "C", r.key collate "C" order by r.started_at, r.id
             rows between unbounded preceding and 1 preceding) as busy_until
    from recent r
    where r.started_at > v_now - interval '1 day' and r.status <> 'skipped' and r.job_name <> 'seed_runner')
  select t.* from (
    select r.started_at, r.job_name, r.key, 'running', r.id, d.cause || ' ' || d.evidence, d.action, d.command
    from (select * from cron_job_runs l where l.status = 'running' and l.job_name <> 'seed_runner' order by l.started_at limit 100) r
    cross join lateral pgonce_diagnose_run(r.id) d where d.kind <> 'at_work'
    union all
    select f.completed_at, f.job_name, f.key, 'failed', f.id, d.cause || ' ' || d.evidence, d.action, d.command
    from (select * from last_failed l order by l.started_at desc limit 20) f
    cross join lateral pgonce_diagnose_run(f.id) d
    -- limit: without it the planner may read all runs for a hash of them
    left join lateral (
      select true as found from cron_job_runs n
      where n.job_name = f.job_name and n.started_at > f.started_at and n.key = f.key and n.status in ('succeeded', 'running') limit 1) later on true
    where later.found is null
    union all
    select m.scheduled_for, m.job_name, m.key, 'missed', null::uuid, c.cause || ' ' || upper(left(m.reason, 1)) || substr(m.reason, 2) || '.', c.action, c.command
    from pgonce_job_missed m cross join pgonce_job_causes() c where c.kind = 'missed'
    union all
    select o.started_at, o.job_name, o.key, 'overlap', o.id,
           format('It began while another run was at work, and the two overlapped for %s.', pgonce_duration_text(pgonce_elapsed(o.started_at, o.busy_until))),
           'The earlier run could commit nothing through `run.transaction()`. Let its function read `run.stop_requested`.', null::text
    from ran o where o.started_at < o.busy_until) t
  order by 1 desc limit 20;
end $$;
comment on function pgonce_console_job_troubles() is
  'pgonce: the newest 20 things that are not as it should be with jobs: runs that are slow, silent or dead, failures of the last 7 days that no success has '
  'followed, overlaps of the last day (both among the newest 5,000 runs), and whatever is in pgonce_job_missed. Without imports.';

create or replace function pgonce_console_job_runs(
  p_job_name text, p_key text default null, p_status text default null, p_before timestamptz default null, p_before_id uuid default null,
  p_limit integer default 50, p_ran boolean default false)
returns table (id uuid, job_name text, key text, status text, started_at timestamptz, ended_at timestamptz, duration_ms integer,
               rows_processed integer, rows_skipped integer, progress_done bigint, progress_total bigint, process text, attempt integer,
               scheduled_for timestamptz, stopping boolean, blocked_by uuid, blocker_started_at timestamptz, next_retry_at timestamptz,
               reason text)
language plpgsql stable set search_path from current set jit = off set plan_cache_mode = force_custom_plan as $$
begin
  return query
  select r.id, r.job_name, r.key, r.status, r.started_at, r.completed_at,
         coalesce(r.duration_ms, pgonce_elapsed_ms(r.started_at, clock_timestamp())),
         r.rows_processed, r.rows_skipped, r.progress_done, r.progress_total, r.process, r.attempt,
         coalesce(r.scheduled_for, r.for_tick), r.status = 'running' and r.stop_requested_at is not null, r.blocked_by,
         (select b.started_at from cron_job_runs b where b.id = r.blocked_by),
         (select d.due_at from pgonce_job_retries d where d.run_id = r.id), pgonce_error_line(r.error_message)
  from (
    select * from (
      select * from cron_job_runs h
      where h.job_name = p_job_name and (p_before is null or (h.started_at, h.id) < (p_before, p_before_id))
      -- a key or status that is rare must not read all of the job's runs
      order by h.started_at desc, h.id desc limit case when p_key is null and p_status is null and not p_ran then p_limit else 5000 end) n
    where (p_key is null or n.key = p_key) and (p_status is null or n.status = p_status) and (not p_ran or n.status <> 'skipped')
    order by n.started_at desc, n.id desc limit p_limit) r
  order by r.started_at desc, r.id desc;
end $$;
comment on function pgonce_console_job_runs(text, text, text, timestamptz, uuid, integer, boolean) is
  'pgonce: the runs of a job, newest first, before (p_before, p_before_id). p_ran: without those that were skipped. With a key, a status '
  'or p_ran the newest 5,000 runs are searched.';

create or replace function pgonce_console_job_releases(p_job_name text, p_since timestamptz)
returns table (release text, started_at timestamptz)
language sql stable set search_path from current set jit = off as $$
  select r.release, r.started_at from pgonce_job_releases r
  where p_job_name = any (r.jobs) and r.started_at >= coalesce((
    select max(b.started_at) from pgonce_job_releases b where p_job_name = any (b.jobs) and b.started_at <= p_since), p_since)
  order by r.started_at limit 100
$$;
comment on function pgonce_console_job_releases(text, timestamptz) is
  'pgonce: the releases whose processes had this job: the one that was running at p_since, and those that started after it.';

create or replace function pgonce_console_job_requests(p_job_name text)
returns table (id uuid, key text, requested_at timestamptz, answered_at timestamptz, run_id uuid, answer text, expired boolean)
language sql stable set search_path from current set jit = off as $$
  select q.id, q.key, q.requested_at, q.answered_at, q.run_id, q.answer,
         q.answered_at is null and q.requested_at <= clock_timestamp() - interval '1 hour'
  from pgonce_job_requests q where q.job_name = p_job_name order by q.requested_at desc limit 5
$$;
comment on function pgonce_console_job_requests(text) is 'pgonce: the last five requests for runs of a job, of the last seven days.';

create or replace function pgonce_console_job_expectations(p_job_name text)
returns table (key text, every interval, grace interval, kept_until timestamptz, last_started_at timestamptz, within interval)
language sql stable set search_path from current set jit = off as $$
  select e.key, e.every, e.grace, greatest(l.started_at, e.since) + e.every, l.started_at, e.within
  from pgonce_job_expectations e left join lateral (
    select r.started_at from (
      select h.* from cron_job_runs h where h.job_name = p_job_name order by h.job_name, h.started_at desc limit 500) r
    where pgonce_is_expected_key(r.key, e.key) and r.status <> 'skipped' order by r.started_at desc limit 1) l on true
  where e.job_name = p_job_name order by e.key limit 50
$$;
comment on function pgonce_console_job_expectations(text) is
  'pgonce: how often a job must run, by when it must run next, and how long a run may take.';

create or replace function pgonce_console_run(p_run_id uuid)
returns table (id uuid, job_name text, key text, status text, scope jsonb, rows_processed integer, rows_skipped integer,
               error_message text, reason text, place text, started_at timestamptz, ended_at timestamptz, duration_ms integer,
               run_window interval, heartbeat_at timestamptz, dead_after timestamptz, scheduled_for timestamptz, attempt integer,
               retries integer, retry_of uuid, next_retry_at timestamptz, blocked_by uuid, process text, release text, app text,
               progress_done bigint, progress_total bigint, progress_at timestamptz, transactions integer,
               stop_requested_at timestamptz, stop_seen boolean, usual_from_ms integer, usual_to_ms integer, next_tick timestamptz)
language sql stable set search_path from current set jit = off as $$
  select r.id, r.job_name, r.key, r.status, r.scope, r.rows_processed, r.rows_skipped, left(r.error_message, 16384),
         pgonce_error_line(r.error_message), pgonce_error_place(r.error_message), r.started_at, r.completed_at,
         coalesce(r.duration_ms, pgonce_elapsed_ms(r.started_at, clock_timestamp())),
         r.run_window, b.beat, case when r.status = 'running' then b.beat + r.run_window end, coalesce(r.scheduled_for, r.for_tick),
         r.attempt, r.retries, r.retry_of, (select d.due_at from pgonce_job_retries d where d.run_id = r.id), r.blocked_by, r.process,
         w.release, w.app, r.progress_done, r.progress_total, r.progress_at, r.transactions, r.stop_requested_at,
         b.beat > r.stop_requested_at, u.from_ms, u.to_ms,
         pgonce_coming_tick(r.job_name, r.key)
  from cron_job_runs r
  cross join lateral pgonce_last_heartbeat(r.id, r.heartbeat_at) as b (beat)
  cross join lateral pgonce_usual_job_duration(r.job_name, r.key) u
  left join lateral (
    -- several containers may have one host name and pid: then it is not known which of them it was
    select min(n.release) as release, min(n.app) as app from (
      select distinct coalesce(nullif(p.release, ''), left(p.digest, 7)) as release, p.app from pgonce_processes p
      where p.host || ':' || p.pid::text = r.process and p.does = 'jobs' and p.started_at <= r.started_at
        and p.last_seen_at > r.started_at - interval '1 minute') n having count(*) = 1) w on true
  where r.id = p_run_id
$$;
comment on function pgonce_console_run(uuid) is
  'pgonce: one run, with its last heartbeat, its usual duration and its process. At most 16,384 characters of its error message.';

create or replace function pgonce_console_run_blocks(p_run_id uuid)
returns table (id uuid, started_at timestamptz, scheduled_for timestamptz, total bigint)
language sql stable set search_path from current set jit = off as $$
  select s.id, s.started_at, s.scheduled_for, count(*) over () from (
    select b.id, b.started_at, b.scheduled_for
    from cron_job_runs r join lateral (
      select n.* from cron_job_runs n
      where n.job_name = r.job_name and n.started_at >= r.started_at and n.started_at <= coalesce(r.completed_at, 'infinity')
      order by n.started_at desc limit 10000) b on b.blocked_by = r.id
    where r.id = p_run_id) s
  order by s.started_at desc, s.id desc limit 50
$$;
comment on function pgonce_console_run_blocks(uuid) is
  'pgonce: the newest 50 starts that were skipped because of this run, newest first, each with their number.';

create or replace function pgonce_console_run_attempts(p_run_id uuid)
returns table (id uuid, attempt integer, status text, started_at timestamptz, duration_ms integer, reason text)
language plpgsql stable set search_path from current set jit = off as $$
declare
  v_ids uuid[] := array[p_run_id];
  v_id uuid;
begin
  for v_step in 1 .. 50 loop  -- to the first attempt
    select r.retry_of into v_id from cron_job_runs r where r.id = v_ids[1];
    exit when v_id is null or v_id = any (v_ids);
    v_ids := v_id || v_ids;
  end loop;
  for v_step in 1 .. 50 loop  -- to the last
    select n.id into v_id from cron_job_runs r join lateral (
      select h.* from cron_job_runs h
      where h.job_name = r.job_name and h.started_at >= r.started_at order by h.started_at limit 1000) n on n.retry_of = r.id
    where r.id = v_ids[cardinality(v_ids)] and r.status = 'failed' and r.retries > 0 limit 1;
    exit when v_id is null or v_id = any (v_ids);
    v_ids := v_ids || v_id;
  end loop;
  return query
    select r.id, r.attempt, r.status, r.started_at, r.duration_ms, pgonce_error_line(r.error_message)
    from unnest(v_ids) with ordinality i (id, number) join cron_job_runs r on r.id = i.id order by i.number;
end $$;
comment on function pgonce_console_run_attempts(uuid) is
  'pgonce: the attempts that this run is one of, the first one first; one row if nothing was retried.';
