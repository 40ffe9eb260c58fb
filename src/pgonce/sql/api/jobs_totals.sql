-- Running totals of the runs of each job, one row for each midnight: so the figures of 30 days are a difference of two rows,
-- and not 200,000 rows. They are kept only where it matters: from 20,000 runs in 62 days on, and up to 5,000 jobs.
--
-- A total counts the runs that started before its midnight and have ended. A run that has not ended yet is remembered by its
-- id in open_runs, and counted at a later midnight. Rows that change otherwise (a DELETE, TRUNCATE, an INSERT of an old run)
-- delete the totals that have counted them, and these are made anew.

-- Without a search_path of its own, so that the planner writes it into the statement: its body is parsed at its creation.
create or replace function pgonce_elapsed_ms(p_since timestamptz, p_until timestamptz) returns integer
language sql immutable parallel safe
return least(greatest((extract(epoch from p_until) - extract(epoch from p_since)) * 1000, 0), 2147483647)::integer;  -- not "-": infinity
comment on function pgonce_elapsed_ms(timestamptz, timestamptz) is
  'pgonce: the time between in milliseconds; 0 where the clock was set back, and at most what an integer holds.';

create or replace function pgonce_elapsed(p_since timestamptz, p_until timestamptz) returns interval
language sql immutable parallel safe
return case when p_since is not null and p_until is not null then  -- least() ignores nulls
  least(greatest(extract(epoch from p_until) - extract(epoch from p_since), 0), 315576000000) * interval '1 s' end;  -- not "-": infinity
comment on function pgonce_elapsed(timestamptz, timestamptz) is
  'pgonce: the time between; 0 where the clock was set back, and at most 10,000 years, also where one of the times is infinite.';

create or replace function pgonce_round_duration(p_ms integer) returns integer
language sql immutable parallel safe set search_path from current as $$
  -- 16 steps for each factor of two: half a step is 2.2 %
  select least(round(exp(round(ln(greatest(p_ms, 1)::float8) * 16 / ln(2::float8)) * ln(2::float8) / 16)), 2147483647)::integer
$$;
comment on function pgonce_round_duration(integer) is
  'pgonce: a duration in milliseconds, rounded to one of 497 values; the difference is at most 2.2 percent.';

create or replace function pgonce_count_job_day() returns boolean
language plpgsql set search_path from current set jit = off set plan_cache_mode = force_custom_plan set work_mem = '64MB' as $$
declare
  -- an hour after its end: a start is invisible until its transaction has committed
  v_today timestamptz := date_trunc('day', clock_timestamp() - interval '1 hour', 'UTC');
  v_first timestamptz := v_today - interval '1488 hours';  -- 62 days: a day of the session's time zone may have 23 or 25 hours
  v_last timestamptz := (select max(d.until) from pgonce_job_days d);
  v_open uuid[];
  v_until timestamptz;
begin
  if v_last >= v_today or not pg_try_advisory_xact_lock(hashtextextended('pgonce job totals ' || current_schema(), 0)) then
    return false;
  end if;
  v_last := (select max(d.until) from pgonce_job_days d);  -- another worker may have had the lock before
  if v_last >= v_today then return false; end if;
  if v_last is null or v_last < v_first then  -- too old to go on from: begin anew
    if (select count(*) from (select from cron_job_runs r where r.started_at >= v_first limit 20000) n) < 20000 then return false; end if;
    delete from pgonce_job_days;
    v_last := v_first;
    insert into pgonce_job_days (until, open_runs)
    values (v_first, array(select r.id from cron_job_runs r where r.status = 'running' and r.started_at < v_first));
  end if;
  v_until := v_last + interval '24 hours';
  v_open := (select d.open_runs from pgonce_job_days d where d.until = v_last);
  -- One statement, so one snapshot: a run that ends at this moment is either counted or open.
  with day as (
    insert into pgonce_job_days (until, open_runs)
    values (v_until, array(select r.id from cron_job_runs r where r.status = 'running' and r.started_at < v_until))),
  ended as (
    select r.job_name, r.status, r.duration_ms, r.rows_processed, r.started_at from cron_job_runs r
    where r.started_at >= v_last and r.started_at < v_until and r.status <> 'running'
    union all
    select r.job_name, r.status, r.duration_ms, r.rows_processed, r.started_at
    from unnest(v_open) o (id) join cron_job_runs r on r.id = o.id where r.status <> 'running'),
  counted as (
    select e.job_name, count(*) filter (where e.status = 'succeeded') as succeeded, count(*) filter (where e.status = 'failed') as failed,
           count(*) filter (where e.status = 'skipped') as skipped,
           coalesce(sum(e.rows_processed) filter (where e.status = 'succeeded'), 0) as rows,
           coalesce(sum(e.duration_ms) filter (where e.status = 'succeeded'), 0) as spent_ms,
           count(e.duration_ms) filter (where e.status = 'succeeded') as measured,
           max(e.started_at) as last_started, max(e.started_at) filter (where e.status = 'failed') as last_failed,
           array_agg(pgonce_round_duration(e.duration_ms)) filter (where e.status = 'succeeded' and e.duration_ms is not null) as durations
    from ended e group by e.job_name)
  insert into pgonce_job_totals
  select v_until, coalesce(c.job_name, t.job_name), coalesce(t.succeeded, 0) + coalesce(c.succeeded, 0),
         coalesce(t.failed, 0) + coalesce(c.failed, 0), coalesce(t.skipped, 0) + coalesce(c.skipped, 0),
         coalesce(t.rows, 0) + coalesce(c.rows, 0), coalesce(t.spent_ms, 0) + coalesce(c.spent_ms, 0),
         coalesce(t.measured, 0) + coalesce(c.measured, 0), coalesce(d.durations, '{}'), coalesce(d.counts, '{}'),
         greatest(t.last_started, c.last_started), greatest(t.last_failed, c.last_failed)
  from counted c full join (select * from pgonce_job_totals a where a.until = v_last) t on t.job_name = c.job_name
  cross join lateral (
    select array_agg(s.ms order by s.ms) as durations, array_agg(s.runs order by s.ms) as counts from (
      select u.ms, sum(u.runs)::integer as runs from (
        select * from unnest(t.durations, t.counts) as before (ms, runs) union all select *, 1 from unnest(c.durations)) u (ms, runs)
      group by u.ms) s) d;
  -- A run that is still running overlaps whatever starts after it, so that its end, when it comes, adds no overlap to this day.
  update pgonce_job_days d set overlapping = array(
    select distinct o.job_name from pgonce_find_job_overlaps_between(v_last, v_until, null, '168 hours') o)
  where d.until = v_until;
  delete from pgonce_job_days d where d.until < v_first;
  if v_until >= v_today then
    -- A job without a run between the first and the last midnight has equal totals, which is as good as none.
    delete from pgonce_job_totals t using pgonce_job_totals a, pgonce_job_totals z
    where a.until = (select min(d.until) from pgonce_job_days d) and z.until = v_until and a.job_name = z.job_name
      and (a.succeeded, a.failed, a.skipped) = (z.succeeded, z.failed, z.skipped) and t.job_name = z.job_name;
  end if;
  if (select count(*) from pgonce_job_totals t where t.until = v_until) > 5000 then
    delete from pgonce_job_days;
    insert into pgonce_job_days (until) values (v_today);  -- nothing more today
  end if;
  return v_until < v_today;
end $$;
comment on function pgonce_count_job_day() is
  'pgonce: adds the totals of one more midnight, if there are 20,000 runs in 62 days. true = there is another one to add. Called by '
  'workers.';

create or replace function pgonce_forget_job_totals(p_since timestamptz) returns void
language plpgsql set search_path from current as $$
begin
  delete from pgonce_job_days d where d.until > p_since and exists (select from pgonce_job_days b where b.until <= p_since);
end $$;
comment on function pgonce_forget_job_totals(timestamptz) is
  'pgonce: deletes the totals that have counted a run that started at this time; they are made anew.';

create or replace function pgonce_cron_job_runs_deleted() returns trigger
language plpgsql set search_path from current as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from pgonce_job_days;
  else
    -- what is older than the first midnight is in no total
    perform pgonce_forget_job_totals((select min(g.started_at) from gone g where g.started_at >= (select min(d.until) from pgonce_job_days d)));
  end if;
  return null;
exception when insufficient_privilege then
  -- A role that may write runs and nothing else: to refuse its statement would be worse than figures that are too high.
  return null;
end $$;
comment on function pgonce_cron_job_runs_deleted() is
  'pgonce: deleted runs are no longer counted. Those that a role without rights to pgonce_job_days deletes still are.';

-- In plpgsql, because an SQL function is planned without its arguments, and would read the whole table for any period.
--
-- A period is read in three parts: run by run from its beginning to the first midnight that has totals, then the difference of
-- the totals of this midnight and the last one in the period, then run by run to its end. Without totals all of it is read run
-- by run. The durations are collected by hash: a sort of all runs by the name of their job took half of the time.
create or replace function pgonce_count_job_runs(p_job_name text, p_from timestamptz, p_until timestamptz default 'infinity')
returns table (job_name text, succeeded bigint, failed bigint, skipped bigint, running bigint, rows bigint, spent_ms bigint,
               measured bigint, last_started timestamptz, last_failed timestamptz,
               durations integer[], counts integer[], less_durations integer[], less_counts integer[])
language plpgsql stable set search_path from current set jit = off set plan_cache_mode = force_custom_plan set work_mem = '64MB' as $$
declare
  v_first timestamptz := (select min(d.until) from pgonce_job_days d where d.until >= p_from);
  v_last timestamptz := (select max(d.until) from pgonce_job_days d where d.until <= p_until);
  v_open uuid[] := '{}';   -- at the last of these midnights; what was open then is read run by run
  v_opened uuid[] := '{}'; -- at the first one; what has ended since is in the difference, but began before
begin
  if v_first < v_last then
    v_open := (select d.open_runs from pgonce_job_days d where d.until = v_last);
    v_opened := (select d.open_runs from pgonce_job_days d where d.until = v_first);
  else
    v_first := p_from;
    v_last := p_from;
  end if;
  return query
  with single as (
    select r.job_name, 1 as sign, r.status, r.duration_ms, r.rows_processed, r.started_at from cron_job_runs r
    where r.started_at >= v_last and r.started_at < p_until and (p_job_name is null or r.job_name = p_job_name)
    union all
    select r.job_name, 1, r.status, r.duration_ms, r.rows_processed, r.started_at from cron_job_runs r
    where r.started_at >= p_from and r.started_at < v_first and (p_job_name is null or r.job_name = p_job_name)
    union all
    select r.job_name, case when r.started_at < v_first then -1 else 1 end, r.status,
           case when r.started_at < v_first then pgonce_round_duration(r.duration_ms) else r.duration_ms end, r.rows_processed, r.started_at
    from unnest(v_open || v_opened) o (id) join cron_job_runs r on r.id = o.id
    where case when r.started_at < v_first then r.status <> 'running' and o.id <> all (v_open) else o.id = any (v_open) end
      and (p_job_name is null or r.job_name = p_job_name)),
  ones as (
    select s.job_name, sum(s.sign) filter (where s.status = 'succeeded') as succeeded, sum(s.sign) filter (where s.status = 'failed') as failed,
           sum(s.sign) filter (where s.status = 'skipped') as skipped, count(*) filter (where s.status = 'running') as running,
           sum(s.sign * s.rows_processed) filter (where s.status = 'succeeded') as rows,
           sum(s.sign * s.duration_ms) filter (where s.status = 'succeeded') as spent_ms,
           sum(s.sign) filter (where s.status = 'succeeded' and s.duration_ms is not null) as measured,
           max(s.started_at) filter (where s.sign > 0) as last_started,
           max(s.started_at) filter (where s.status = 'failed' and s.sign > 0) as last_failed,
           array_agg(s.duration_ms) filter (where s.status = 'succeeded' and s.sign > 0) as durations,
           array_agg(s.duration_ms) filter (where s.status = 'succeeded' and s.sign < 0) as less_durations
    from single s group by s.job_name),
  sums as (
    select z.job_name, z.succeeded - coalesce(a.succeeded, 0) as succeeded, z.failed - coalesce(a.failed, 0) as failed,
           z.skipped - coalesce(a.skipped, 0) as skipped, z.rows - coalesce(a.rows, 0) as rows,
           z.spent_ms - coalesce(a.spent_ms, 0) as spent_ms, z.measured - coalesce(a.measured, 0) as measured,
           case when z.last_started >= p_from then z.last_started end as last_started,
           case when z.last_failed >= p_from then z.last_failed end as last_failed,
           z.durations, z.counts, a.durations as less_durations, a.counts as less_counts
    from (select * from pgonce_job_totals t where t.until = v_last and (p_job_name is null or t.job_name = p_job_name)) z
    left join (select * from pgonce_job_totals t where t.until = v_first and (p_job_name is null or t.job_name = p_job_name)) a
      on a.job_name = z.job_name
    where v_first < v_last)
  select coalesce(o.job_name, s.job_name), coalesce(o.succeeded, 0) + coalesce(s.succeeded, 0), coalesce(o.failed, 0) + coalesce(s.failed, 0),
         coalesce(o.skipped, 0) + coalesce(s.skipped, 0), coalesce(o.running, 0), coalesce(o.rows, 0)::bigint + coalesce(s.rows, 0),
         coalesce(o.spent_ms, 0)::bigint + coalesce(s.spent_ms, 0), coalesce(o.measured, 0) + coalesce(s.measured, 0),
         greatest(o.last_started, s.last_started), greatest(o.last_failed, s.last_failed),
         s.durations || o.durations, s.counts, s.less_durations || o.less_durations, s.less_counts
  from ones o full join sums s on s.job_name = o.job_name;
end $$;
comment on function pgonce_count_job_runs(text, timestamptz, timestamptz) is
  'pgonce: per job the runs that started in [p_from, p_until), how they ended, and the durations of the successful ones: those in '
  'durations (as often as counts says; once, where counts ends before), without those in less_durations.';
