-- What people should know of, read from the tables; nothing is written here.

-- In plpgsql: an SQL function is planned without its arguments, and "started_at >= p_since" would read the whole table.
create or replace function pgonce_find_alerts(p_since timestamptz, p_watched uuid[])
returns table (kind text, subject text, dedupe_key text, message text, detail jsonb)
language plpgsql stable set search_path from current as $$
declare
  v_in_a_row constant integer := 3;
  v_now timestamptz := clock_timestamp();
begin
  return query
  with recent as (
    select r.job_name, count(*) as runs from cron_job_runs r
    where r.started_at >= p_since and r.status <> 'skipped' group by r.job_name
    union all
    select r.job_name, 0 from cron_job_runs r where r.id = any (p_watched) and r.started_at < p_since),
  -- An import that fails is told as one, not as a run of its runner. Streaks are looked for in a job's new runs and
  -- the 25 before: one bounded index scan per job, and not one per key, of which there may be one for each run.
  -- "any (array[…])" and job_name in the order: with "=" the planner may walk idx_cron_runs_started, and of a job with few runs
  -- to the end of the table.
  newest as (
    select h.* from (
      select c.job_name, sum(c.runs)::bigint as runs from recent c where c.job_name <> 'seed_runner' group by c.job_name) j
    cross join lateral (
      select r.id, r.job_name, r.key, r.status, r.started_at, r.completed_at, r.duration_ms, r.scheduled_for, r.error_message,
             r.attempt, r.retries, r.retry_of, r.stop_requested_at
      from cron_job_runs r where r.job_name = any (array[j.job_name]) and r.status <> 'skipped'
      order by r.job_name, r.started_at desc limit j.runs + 25) h),
  -- The runs of other keys may have pushed a watched one out of these.
  history as (
    select n.* from newest n
    union all
    select r.id, r.job_name, r.key, r.status, r.started_at, r.completed_at, r.duration_ms, r.scheduled_for, r.error_message,
           r.attempt, r.retries, r.retry_of, r.stop_requested_at
    from cron_job_runs r
    where r.id = any (p_watched) and r.job_name <> 'seed_runner'
      and not exists (select from newest n where n.id = r.id)),
  -- A failure that was retried, or is going to be, is none yet, unless nobody is there to retry it; one that was asked for is
  -- none. A newer tick takes the place of a retry: then there is neither retry nor next attempt. The next attempt started after
  -- the run, so it is in history too, and needs no index on retry_of.
  ends as (
    select h.*, lag(h.status) over w as previous, count(*) filter (where h.status = 'succeeded') over w as successes
    from history h
    left join pgonce_job_retries d on d.run_id = h.id
    left join (select distinct n.retry_of from history n) retried on retried.retry_of = h.id
    where h.status = 'succeeded'
       or h.status = 'failed' and h.stop_requested_at is null
          and (h.retries is null or h.attempt > h.retries
               or retried.retry_of is null and (d.due_at >= v_now - interval '15 minutes') is not true)
    window w as (partition by h.job_name, h.key order by h.started_at, h.id)),
  streaks as (
    select e.*, count(*) filter (where e.status = 'failed') over (
             partition by e.job_name, e.key, e.successes order by e.started_at, e.id) as failures,
           min(e.started_at) filter (where e.status = 'failed') over (partition by e.job_name, e.key, e.successes) as since
    from ends e),
  told as (
    select case when e.status = 'succeeded' then 'recovered'
                when e.failures < v_in_a_row then 'run_failed' else 'failed_in_a_row' end as what,
           e.job_name, e.key, e.id, e.scheduled_for,
           -- once a day, and by the day: of a long streak the beginning is not seen
           case when e.failures > v_in_a_row then concat_ws('/', e.job_name, e.key, to_char(e.started_at at time zone 'UTC', 'YYYY-MM-DD'))
                else e.id::text end as once,
           case when e.status = 'succeeded' then 'has succeeded again'
                when e.failures < v_in_a_row then 'failed: '
                when e.failures = v_in_a_row then format('failed %s times in a row: ', v_in_a_row)
                else 'is still failing: ' end
             || case when e.status = 'failed'
                then coalesce(left(substring(rtrim(e.error_message, E'\n') from '[^\n]*$'), 500), 'no reason given')
                else '' end as message
    from streaks e
    -- for one that was waiting for a retry the news is that it is over; a backoff is a day at most
    where coalesce(e.completed_at, e.started_at)
            >= p_since - case when e.attempt <= e.retries and e.id = any (p_watched) then interval '2 days' else '0' end
      and (e.status = 'failed' and (e.failures <= v_in_a_row or e.started_at >= e.since + interval '1 day')
           or e.status = 'succeeded' and e.previous = 'failed')
    union all
    select 'ran_long', h.job_name, h.key, h.id, h.scheduled_for, h.id::text,
           format('takes far longer than usual: %s; of its last runs 95 %% took no more than %s',
                  date_trunc('second', spent.ms * interval '1 ms'), date_trunc('milliseconds', usual.p95 * interval '1 ms'))
    from history h
    cross join lateral (
      select coalesce(h.duration_ms, extract(epoch from v_now - h.started_at) * 1000)::double precision as ms) spent
    cross join lateral (
      select count(*) as runs, percentile_disc(0.95) within group (order by u.duration_ms) as p95
      from (select b.duration_ms from (
              select r.duration_ms, r.key, r.status from cron_job_runs r
              where r.job_name = any (array[h.job_name]) and r.started_at < h.started_at
              order by r.job_name, r.started_at desc limit 200) b
            where b.key = h.key and b.status = 'succeeded' limit 20) u) usual
    where spent.ms > 60000 and (h.status = 'running' or h.completed_at >= p_since)
      and usual.runs >= 5 and spent.ms > 3 * usual.p95  -- of fewer than five runs none is usual
    union all
    -- all the skips between two starts name the same run
    select 'skipped_in_a_row', b.job_name, b.key, b.id, null::timestamptz, b.id::text,
           format('was skipped %s times in a row: run %s has been in the way since %s', v_in_a_row, b.id, b.started_at)
    from (select distinct r.blocked_by from cron_job_runs r
          where r.started_at >= p_since and r.status = 'skipped' and r.blocked_by is not null and r.job_name <> 'seed_runner') s
    join cron_job_runs b on b.id = s.blocked_by
    where v_in_a_row = (
      select count(*) from (
        select from cron_job_runs r
        where r.job_name = b.job_name and r.started_at >= b.started_at and r.blocked_by = b.id limit v_in_a_row) skips))
  select t.what, t.job_name || coalesce('/' || nullif(t.key, ''), ''), t.what || '/' || t.once,
         format('job %s %s', t.job_name || coalesce('/' || nullif(t.key, ''), ''), t.message),
         jsonb_build_object('job_name', t.job_name, 'key', t.key, 'run_id', t.id, 'scheduled_for', t.scheduled_for)
  from told t
  union all
  select 'did_not_run', m.job_name || coalesce('/' || nullif(m.key, ''), ''),
         concat_ws('/', 'did_not_run', m.job_name, m.key, extract(epoch from m.scheduled_for)),
         format('job %s did not run at %s: %s', m.job_name || coalesce('/' || nullif(m.key, ''), ''), m.scheduled_for, m.reason),
         jsonb_build_object('job_name', m.job_name, 'key', m.key, 'scheduled_for', m.scheduled_for)
  from pgonce_job_missed m where m.missed_at >= p_since
  union all
  -- one for each type and hour: when what a handler calls is down, ten thousand events die of one cause
  select 'dead_webhook', d.event_type, concat_ws('/', 'dead_webhook', d.event_type, extract(epoch from d.hour)),
         format('%s of type %s failed for good: %s; see `pgonce webhook ls --dead`', d.stripe_event_id, d.event_type, d.reason),
         jsonb_build_object('stripe_event_id', d.stripe_event_id, 'event_type', d.event_type, 'events', d.events)
  from (select e.event_type, date_trunc('hour', coalesce(e.processed_at, e.received_at)) as hour, count(*) as events,
               min(e.stripe_event_id) as stripe_event_id,
               (array_agg(left(substring(rtrim(e.error_message, E'\n') from '[^\n]*$'), 500)
                          order by e.stripe_event_id))[1] as reason
        from webhook_events e
        where e.status = 'failed' and e.next_attempt_at is null and coalesce(e.processed_at, e.received_at) >= p_since
        group by 1, 2) d
  union all
  select 'import_failed', s.seed_name, concat_ws('/', 'import_failed', s.seed_name, extract(epoch from s.last_updated_at)),
         format('import %s failed: %s', s.seed_name, left(substring(rtrim(s.error_message, E'\n') from '[^\n]*$'), 500)),
         jsonb_build_object('seed_name', s.seed_name, 'last_checkpoint', s.last_checkpoint)
  from seed_checkpoints s where s.status = 'failed' and s.last_updated_at >= p_since
  union all
  -- a day, whatever p_since: its runner may have been alive without a batch for hours, and died now
  select 'import_stalled', s.seed_name, concat_ws('/', 'import_stalled', s.seed_name, extract(epoch from s.last_updated_at)),
         format('import %s has stalled: nothing since %s, and nobody is at work on it; `pgonce seed run` resumes it',
                s.seed_name, s.last_updated_at),
         jsonb_build_object('seed_name', s.seed_name, 'last_checkpoint', s.last_checkpoint)
  from seed_checkpoints s
  where s.status = 'in_progress' and s.paused_at is null and s.last_updated_at < v_now - interval '15 minutes'
    and s.last_updated_at >= least(p_since, v_now - interval '1 day')
    and not exists (select from pgonce_get_runners(s.seed_name) w where w.alive);
end $$;
comment on function pgonce_find_alerts(timestamptz, uuid[]) is
  'pgonce: what is worth telling of what happened since then: failed, late, skipped and missing runs, dead webhook events, '
  'imports that failed or stalled. p_watched: runs that started before, and were running or waited for a retry. dedupe_key is the '
  'same at every look.';
