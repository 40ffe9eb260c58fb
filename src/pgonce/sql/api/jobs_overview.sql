-- One row for each job and key: its last run, its usual duration, its next tick, and what is wrong.

create or replace function pgonce_coming_tick(p_job_name text, p_key text) returns timestamptz
language sql stable set search_path from current as $$
  -- a paused job does not start before the end of its pause, and how it goes on after the written ticks is not known here
  select case when p.job_name is null then coalesce(min(t) filter (where t > clock_timestamp()), max(t))
              else min(t) filter (where t > p.paused_until) end
  from pgonce_job_schedules s cross join unnest(s.next_tick || s.upcoming) t
  left join pgonce_job_pauses p on p.job_name = s.job_name and coalesce(p.paused_until, 'infinity') > clock_timestamp()
  where s.job_name = p_job_name and s.key = p_key group by p.job_name
$$;
comment on function pgonce_coming_tick(text, text) is
  'pgonce: the next tick of a job that may start a run; null: it has no schedule, or it is paused until nobody knows when.';

create or replace function pgonce_list_jobs()
returns table (job_name text, key text, run_id uuid, status text, started_at timestamptz, duration_ms integer, usual_from_ms integer,
               usual_to_ms integer, next_tick timestamptz, attempt integer, next_retry_at timestamptz, stopping boolean,
               progress_done bigint, progress_total bigint, progress_at timestamptz, process text, blocks bigint,
               paused text, paused_until timestamptz, missed text, reason text)
language sql stable set search_path from current set jit = off as $$
  with recursive names as (
    -- the distinct names, by one index lookup per name: a job has many runs
    (select r.job_name as name from cron_job_runs r order by r.job_name limit 1)
    union all
    select (select r.job_name from cron_job_runs r where r.job_name > n.name order by r.job_name limit 1) from names n where n.name is not null),
  recent as (
    select h.* from names n cross join lateral (
      select r.id, r.job_name, r.key, r.status, r.started_at, r.duration_ms, r.attempt, r.stop_requested_at, r.progress_done,
             r.progress_total, r.progress_at, r.process, r.error_message, r.heartbeat_at, r.run_window,
             row_number() over (partition by r.key order by r.started_at desc) as age
      from (select * from cron_job_runs r where r.job_name = any (array[n.name]) order by r.job_name, r.started_at desc limit 50) r
      where r.status <> 'skipped') h
    where n.name is not null),
  usual as (
    select u.job_name, u.key, percentile_disc(array[0.1, 0.9]) within group (order by u.duration_ms) as ms
    from recent u where u.status = 'succeeded' group by u.job_name, u.key having count(*) >= 5),
  missed as (select distinct on (m.job_name, m.key) m.job_name, m.key, m.reason from pgonce_job_missed m order by m.job_name, m.key, m.scheduled_for desc),
  keys as (
    select k.job_name, k.key from recent k where k.age = 1
    union select s.job_name, s.key from pgonce_job_schedules s
    union select e.job_name, e.key from pgonce_job_expectations e
    union select m.job_name, m.key from missed m)
  select k.job_name, k.key, r.id, r.status, r.started_at,
         coalesce(r.duration_ms, case when r.started_at is not null then  -- without a start it would be 0
           pgonce_elapsed_ms(r.started_at, clock_timestamp()) end),
         u.ms[1], u.ms[2],
         pgonce_coming_tick(k.job_name, k.key),
         r.attempt, (select d.due_at from pgonce_job_retries d where d.run_id = r.id),
         coalesce(r.status = 'running' and r.stop_requested_at is not null, false),
         r.progress_done, r.progress_total, r.progress_at, r.process,
         case when r.status = 'running' then (
           select count(*) from cron_job_runs b
           where b.job_name = r.job_name and b.started_at >= r.started_at and b.blocked_by = r.id) end,
         p.reason, p.paused_until, m.reason, case when r.status = 'failed' then pgonce_error_line(r.error_message)
                        else pgonce_job_run_silence(r.id, r.status, r.heartbeat_at, r.run_window) end
  from keys k
  left join recent r on r.job_name = k.job_name and r.key = k.key and r.age = 1
  left join usual u on u.job_name = k.job_name and u.key = k.key
  left join missed m on m.job_name = k.job_name and m.key = k.key
  left join pgonce_job_pauses p on p.job_name = k.job_name and coalesce(p.paused_until, 'infinity') > clock_timestamp()
  order by r.started_at desc nulls last, k.job_name, k.key
$$;
comment on function pgonce_list_jobs() is
  'pgonce: one row for each job and key: its last run (not counting skipped ones), how long its runs usually take (the 10 % and 90 % '
  'points of its last successful ones), its next tick, how many starts the run has blocked, and why it is paused or missed. reason: why its last run failed, or that it is silent.';
