-- Lists and figures over the audit rows: timing, overlaps (there must be none), and ticks that did not run.

create or replace function pgonce_job_run_silence(p_run_id uuid, p_status text, p_heartbeat_at timestamptz, p_window interval) returns text
language sql stable set search_path from current as $$
  select case when p_status = 'running' and p_heartbeat_at + p_window <= clock_timestamp()
                   and not pgonce_has_heartbeat(p_run_id, p_window)
              then format('no sign of life since %s: its process is gone or cut off, and any worker or the next start closes the run',
                          to_char(pgonce_last_heartbeat(p_run_id, p_heartbeat_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"')) end
$$;
comment on function pgonce_job_run_silence(uuid, text, timestamptz, interval) is
  'pgonce: what there is to say about a running run that has sent no heartbeat for its whole window; null for any other run.';

create or replace function pgonce_list_job_runs(
  p_job_name text default null, p_status text default null, p_since timestamptz default null, p_limit integer default 50)
returns table (id uuid, job_name text, key text, status text, scope jsonb, attempt integer, scheduled_for timestamptz,
               started_at timestamptz, heartbeat_at timestamptz, duration_ms integer, rows_processed integer, rows_skipped integer,
               progress_done bigint, progress_total bigint, stopping boolean, next_retry_at timestamptz, reason text)
language sql stable set search_path from current set jit = off as $$
  select r.id, r.job_name, r.key, r.status, r.scope, r.attempt, r.scheduled_for, r.started_at,
         case when r.status = 'running' then pgonce_last_heartbeat(r.id, r.heartbeat_at) else r.heartbeat_at end,
         coalesce(r.duration_ms, pgonce_elapsed_ms(r.started_at, clock_timestamp())),
         r.rows_processed, r.rows_skipped, r.progress_done, r.progress_total,
         r.status = 'running' and r.stop_requested_at is not null,
         (select d.due_at from pgonce_job_retries d where d.run_id = r.id),
         coalesce(pgonce_error_line(r.error_message), pgonce_job_run_silence(r.id, r.status, r.heartbeat_at, r.run_window))
  from cron_job_runs r
  where (p_job_name is null or r.job_name = p_job_name) and (p_status is null or r.status = p_status)
    and (p_since is null or r.started_at >= p_since)
  order by r.started_at desc
  limit p_limit
$$;
comment on function pgonce_list_job_runs(text, text, timestamptz, integer) is
  'pgonce: runs, newest first. reason is the error''s own line, or that a running run is silent. duration_ms of a running run is the time so far.';

create or replace function pgonce_get_job_run(p_run_id uuid) returns jsonb
language sql stable set search_path from current set intervalstyle to 'postgres' as $$
  select to_jsonb(r) || jsonb_build_object('heartbeat_at', pgonce_last_heartbeat(r.id, r.heartbeat_at))
  from cron_job_runs r where r.id = p_run_id
$$;
comment on function pgonce_get_job_run(uuid) is 'pgonce: one run with everything about it; null when there is none.';

-- work_mem: the durations of a million runs are 8 MB.
create or replace function pgonce_job_timing(p_job_name text default null, p_period interval default '7 days')
returns table (job_name text, runs bigint, succeeded bigint, failed bigint, skipped bigint, running bigint, success_rate double precision,
               p50_ms integer, p95_ms integer, p99_ms integer, max_ms integer, previous_p50_ms integer, trend double precision,
               rows_per_second double precision, last_started_at timestamptz, last_failed_at timestamptz, last_failure text)
language plpgsql stable set search_path from current set jit = off set work_mem = '64MB' as $$
declare
  v_now timestamptz := clock_timestamp();
  v_period interval := least(p_period, '2000 years');  -- the calendar of PostgreSQL begins 6,700 years ago
begin
  return query
  with counted as (
    select 1 as period, c.* from pgonce_count_job_runs(p_job_name, v_now - v_period) c
    union all
    select 2, c.* from pgonce_count_job_runs(p_job_name, v_now - 2 * v_period, v_now - v_period) c),
  measured as (
    select c.*, coalesce(x.ms, d.ms) as ms from counted c
    cross join lateral (  -- all of them were read run by run
      select percentile_disc(array[0.5, 0.95, 0.99, 1]) within group (order by u.ms) as ms from unnest(c.durations) as u (ms)
      where c.counts is null and c.less_durations is null) x
    cross join lateral (
      select array[min(w.ms) filter (where w.below * 2 >= c.measured), min(w.ms) filter (where w.below * 20 >= c.measured * 19),
                   min(w.ms) filter (where w.below * 100 >= c.measured * 99), min(w.ms) filter (where w.below >= c.measured)] as ms
      from (
        select u.ms, sum(u.runs) over (order by u.ms) as below from (
          select p.ms, coalesce(p.runs, 1) from (select unnest(c.durations) as ms, unnest(c.counts) as runs) p where p.ms is not null
          union all
          select l.ms, - coalesce(l.runs, 1) from (select unnest(c.less_durations) as ms, unnest(c.less_counts) as runs) l
          where l.ms is not null) u (ms, runs)
        where c.counts is not null or c.less_durations is not null) w
      where w.below > 0) d)
  select m.job_name, m.succeeded + m.failed + m.running, m.succeeded, m.failed, m.skipped, m.running,
         round(m.succeeded::numeric / nullif(m.succeeded + m.failed, 0), 4)::double precision, m.ms[1], m.ms[2], m.ms[3], m.ms[4], p.ms[1],
         round(m.ms[1]::numeric / nullif(p.ms[1], 0) - 1, 4)::double precision,
         round(m.rows * 1000.0 / nullif(m.spent_ms, 0), 1)::double precision, m.last_started, l.completed_at,
         pgonce_error_line(l.error_message)
  from measured m
  left join measured p on p.period = 2 and p.job_name = m.job_name
  left join lateral (
    select r.completed_at, r.error_message from cron_job_runs r
    where r.job_name = any (array[m.job_name]) and r.started_at = m.last_failed and r.status = 'failed' limit 1) l on true
  where m.period = 1 and m.succeeded + m.failed + m.skipped + m.running > 0
  order by m.job_name;
end $$;
comment on function pgonce_job_timing(text, interval) is
  'pgonce: per job over the last p_period: runs and their ends, success rate (0 to 1), durations of the successful ones, their median '
  'in the period before and the change since (0.1 = ten percent slower), rows per second, and the last failure. From 20,000 runs in 62 '
  'days on the durations of past days are rounded by at most 2.2 percent.';

create or replace view pgonce_job_stats as select * from pgonce_job_timing();
comment on view pgonce_job_stats is 'pgonce_job_timing of the last seven days.';

-- A window function: the time of a self-join grows with the square of a job's runs. A running run has no end yet. worked_until
-- is when the process of a run noticed that the run had been closed meanwhile: until then it may have worked.
create or replace function pgonce_find_job_overlaps_between(
  p_from timestamptz, p_until timestamptz, p_job_names text[] default null, p_before interval default '24 hours')
returns table (job_name text, key text, run_id uuid, started_at timestamptz, other_ended_at timestamptz, fenced boolean)
language plpgsql stable set search_path from current set jit = off set plan_cache_mode = force_custom_plan set work_mem = '64MB' as $$
begin
  return query
  with looked_at as (
    select r.job_name, r.key, r.id, r.started_at, coalesce(r.completed_at, 'infinity') as ended_at, r.worked_until
    from cron_job_runs r where r.started_at >= p_from and r.started_at < p_until and r.status <> 'skipped'
      and (p_job_names is null or r.job_name = any (p_job_names))
    union all  -- the runs that may have been running when the period began: those of some time before, and those that still run
    select r.job_name, r.key, r.id, r.started_at, coalesce(r.completed_at, 'infinity'), r.worked_until
    from cron_job_runs r
    where r.started_at >= p_from - p_before and r.started_at < p_from and r.status in ('succeeded', 'failed')
      and (r.completed_at > p_from or r.worked_until > p_from) and (p_job_names is null or r.job_name = any (p_job_names))
    union all
    select r.job_name, r.key, r.id, r.started_at, 'infinity', r.worked_until
    from cron_job_runs r where r.started_at < p_from and r.status = 'running' and (p_job_names is null or r.job_name = any (p_job_names))),
  ends as (
    select o.job_name, o.key, o.id, o.started_at, max(o.ended_at) over earlier as ended_at,
           max(greatest(o.ended_at, o.worked_until)) over earlier as worked_until
    from looked_at o
    window earlier as (partition by o.job_name, o.key order by o.started_at, o.id rows between unbounded preceding and 1 preceding))
  select e.job_name, e.key, e.id, e.started_at, nullif(e.worked_until, 'infinity'), e.started_at >= e.ended_at from ends e
  where e.started_at < e.worked_until and e.started_at >= p_from;
end $$;
comment on function pgonce_find_job_overlaps_between(timestamptz, timestamptz, text[], interval) is
  'pgonce: pgonce_find_job_overlaps for the runs that started in [p_from, p_until), of some jobs or of all. Of the runs that have ended, '
  'those that started up to p_before earlier are read, too.';

-- Of past days only the jobs are read that had overlaps (pgonce_job_days): a window over 30 days reads all of their runs.
create or replace function pgonce_find_job_overlaps(p_period interval default '7 days')
returns table (job_name text, key text, run_id uuid, started_at timestamptz, other_ended_at timestamptz, fenced boolean)
language plpgsql stable set search_path from current set jit = off as $$
declare
  v_since timestamptz := clock_timestamp() - least(p_period, '2000 years');
  v_first timestamptz;
  v_last timestamptz;
begin
  select coalesce(min(d.until) - interval '24 hours', v_since), coalesce(max(d.until), v_since) into v_first, v_last
  from pgonce_job_days d where d.overlapping is not null and d.until >= v_since + interval '24 hours';
  return query
  select * from pgonce_find_job_overlaps_between(v_since, v_first) where v_since < v_first union all
  select o.* from pgonce_job_days d
  cross join lateral pgonce_find_job_overlaps_between(d.until - interval '24 hours', d.until, d.overlapping, '168 hours') o
  where d.until > v_first and d.until <= v_last and d.overlapping <> '{}' union all
  select * from pgonce_find_job_overlaps_between(v_last, 'infinity');
end $$;
comment on function pgonce_find_job_overlaps(interval) is
  'pgonce: runs of the last p_period that started while another run of their job and key was running. fenced = the other run had '
  'been closed before, but its process had not noticed it yet: what that process wrote through the run was refused. There must be '
  'none with fenced = false. other_ended_at is null while the other run is running. Runs that have ended are read if they started up '
  'to 24 hours before the period. From 20,000 runs in 62 days on, a run that has ended is compared with those of the next seven days.';

create or replace view pgonce_job_overlaps as select * from pgonce_find_job_overlaps();
comment on view pgonce_job_overlaps is 'pgonce_find_job_overlaps of the last seven days.';

-- A start that a pause has refused counts: the job was not due before the end of its pause. A slot of the key counts as the key.
create or replace function pgonce_last_expected_runs()
returns table (job_name text, key text, is_all boolean, status text, started_at timestamptz, completed_at timestamptz, process text,
               error_message text)
language sql stable set search_path from current set jit = off as $$
  select e.job_name, e.key, true, l.status, l.started_at, l.completed_at, l.process, l.error_message
  from pgonce_job_expectations e
  left join lateral (
    select r.status, r.started_at, r.completed_at, r.process, r.error_message from cron_job_runs r
    where r.job_name = any (array[e.job_name]) and isfinite(r.started_at)
      and (r.status <> 'skipped' or r.blocked_by is null and r.error_message like 'paused%')
    order by r.job_name, r.started_at desc limit 1) l on true
  where e.key = ''
  union all
  -- No index leads to the last run of a key. A search for each key would read all runs of the job for a key that has never run.
  -- Here they are read once for all keys: those of the longest interval, and at least the last 100,000.
  (with jobs as (
    select e.job_name, clock_timestamp() - max(extract(epoch from e.every + e.grace)) * interval '1 s' as since
    from pgonce_job_expectations e where e.key <> '' group by e.job_name),
  bounds as (
    select j.job_name, case when o.started_at is null then '-infinity' else least(j.since, o.started_at) end as since,
           o.started_at is null as is_all
    from jobs j left join lateral (
      select r.started_at from cron_job_runs r where r.job_name = any (array[j.job_name])
      order by r.job_name, r.started_at desc offset 100000 limit 1) o on true),
  runs as (
    select b.job_name, b.is_all, n.key, n.started_at from bounds b cross join lateral (
      select r.key, max(r.started_at) as started_at from cron_job_runs r
      where r.job_name = any (array[b.job_name]) and r.started_at >= b.since and isfinite(r.started_at)
        and (r.status <> 'skipped' or r.blocked_by is null and r.error_message like 'paused%')
      group by r.key) n),
  keys as (
    select r.job_name, r.key, r.key as run_key, r.started_at from runs r
    union all
    select r.job_name, substring(r.key from '^(.*)#[0-9]{1,4}$'), r.key, r.started_at from runs r where r.key ~ '#[0-9]{1,4}$'),
  last as (
    select distinct on (e.job_name, e.key) e.job_name, e.key, b.is_all, k.run_key, k.started_at
    from pgonce_job_expectations e join bounds b on b.job_name = e.job_name
    left join keys k on k.job_name = e.job_name and k.key = e.key
    where e.key <> '' order by e.job_name, e.key, k.started_at desc nulls last)
  select l.job_name, l.key, l.is_all, d.status, d.started_at, d.completed_at, d.process, d.error_message
  from last l left join lateral (
    select r.* from cron_job_runs r
    where r.job_name = any (array[l.job_name]) and r.started_at = l.started_at and r.key = l.run_key
      and (r.status <> 'skipped' or r.blocked_by is null and r.error_message like 'paused%') limit 1) d on true)
$$;
comment on function pgonce_last_expected_runs() is
  'pgonce: of each job and key that is expected to run (pgonce_expect_job), the last run or paused start. is_all = false: only a part of '
  'the job''s runs was read, so that an older one may exist.';

create or replace view pgonce_job_missed as
-- Ticks that are overdue: the first of the planned ticks after the last one that has a row. The row is written when a run
-- starts, and next_tick is moved some seconds later. If a worker dies in between, the row shows that the tick has fired.
select s.job_name, s.key, t.tick as scheduled_for, t.tick + s.grace as missed_at, 'no scheduler has started it' as reason
from pgonce_job_schedules s
cross join lateral (
  -- Key by key: the largest tick of one key is one index lookup; for several keys at once all their ticks would be read.
  select max(l.tick) as tick from unnest(pgonce_slot_keys(s.key, s.slots)) k cross join lateral (
    select max(r.scheduled_for) as tick from cron_job_runs r
    where r.job_name = s.job_name and r.key = k and r.scheduled_for is not null) l) fired
cross join lateral (
  select min(u) as tick from unnest(s.next_tick || s.upcoming) u where fired.tick is null or u > fired.tick) t
-- for a month: if the only app that had the job was removed, no process deletes its schedule
where s.next_tick + s.grace < clock_timestamp()  -- the first of the planned ticks: nearly always this settles it, without a lookup
  and t.tick + s.grace between clock_timestamp() - interval '30 days' and clock_timestamp()
  and not exists (select from pgonce_job_pauses p where p.job_name = s.job_name and coalesce(p.paused_until, 'infinity') > clock_timestamp())
union all
-- Ticks that a scheduler gave up. A tick of a paused job was not missed. now(), because a volatile function as the bound
-- cannot use an index.
select r.job_name, r.key, r.scheduled_for, r.started_at, r.error_message from cron_job_runs r
where r.status = 'skipped' and r.blocked_by is null and r.scheduled_for is not null and r.started_at > now() - interval '1 day'
  and r.error_message not like 'paused%'
union all
-- Jobs that must run at an interval, no matter what starts them. The interval begins with the last run, but not before the promise
-- or the end of a pause: a deploy that makes a daily job hourly must not raise an alert. One row for each interval that has passed, at most one a day.
-- In UTC, because a day that is added to a time is 23 or 25 hours long in some time zones. A month is a calendar month.
select e.job_name, e.key, due.at, due.at + e.grace,
       format('it should run every %s; ', pgonce_interval_text(e.every))
         || case when last.started_at is null and not last.is_all then 'none of the job''s last 100,000 runs has this key'
                 when last.started_at is null then 'it has never run'
                 when last.status = 'skipped' then format('its last start, on %s, was refused: %s', pgonce_utc_text(last.started_at), last.error_message)
            else format('its last run %s %s, on %s', case when last.status = 'running' then 'has been running since' else last.status || ' at' end,
                        pgonce_utc_text(coalesce(last.completed_at, last.started_at)), coalesce(last.process, 'an unnamed process'))
            end
from pgonce_job_expectations e
left join pgonce_last_expected_runs() last on last.job_name = e.job_name and last.key = e.key
cross join lateral (select extract(epoch from e.every)::double precision * interval '1 s' as length) every
cross join lateral (
  select (greatest(last.started_at, e.since, (select p.paused_until from pgonce_job_pauses p where p.job_name = e.job_name))
          at time zone 'utc' + e.every) at time zone 'utc' as first) f
cross join lateral (
  select f.first + floor(greatest(extract(epoch from clock_timestamp() - e.grace - f.first), 0)
                         / extract(epoch from greatest(every.length, interval '24 hours'))) * greatest(every.length, interval '24 hours') as at) due
where due.at + e.grace <= clock_timestamp()
  and not exists (select from pgonce_job_pauses p where p.job_name = e.job_name and coalesce(p.paused_until, 'infinity') > clock_timestamp());
comment on view pgonce_job_missed is
  'Ticks that did not run within their grace: those that have been waiting, for up to 30 days, and those that a scheduler gave up in the '
  'last day. And jobs that did not run as often as they should (pgonce_expect_job), whoever starts them.';
