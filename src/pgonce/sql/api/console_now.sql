-- What the first page of the console shows: is anything lost, late, stuck or slow? Every read is bounded.

create or replace function pgonce_record_check(p_name text, p_by text, p_detail jsonb default '{}') returns void
language plpgsql set search_path from current as $$
begin
  if coalesce(p_name, '') = '' then raise sqlstate '22023' using message = 'the name must not be empty'; end if;
  insert into pgonce_checks as c (name, checked_by, detail) values (p_name, coalesce(p_by, ''), coalesce(p_detail, '{}'))
  on conflict (name) do update
  set checked_at = clock_timestamp(), checked_by = excluded.checked_by, detail = excluded.detail;
end $$;
comment on function pgonce_record_check(text, text, jsonb) is
  'pgonce: records that a process has looked at something now, and what it found.';

-- A seed counts as stuck as in pgonce_examine: it failed, or no process works on it.
create or replace function pgonce_console_stuck_imports()
returns table (seed_name text, status text, since timestamptz, reason text)
language sql stable set search_path from current as $$
  select s.seed_name, s.status, s.last_updated_at, pgonce_error_line(s.error_message) from seed_checkpoints s
  where s.status = 'failed'
     or s.status = 'in_progress' and s.paused_at is null and s.last_updated_at < clock_timestamp() - interval '15 minutes'
        and not exists (select from pgonce_get_runners(s.seed_name) w where w.alive)
  order by s.last_updated_at desc limit 1000
$$;
comment on function pgonce_console_stuck_imports() is
  'pgonce: the imports that have failed, and those that have had no batch for 15 minutes and no process, the newest first.';

create or replace function pgonce_console_shell()
returns table (now timestamptz, dead bigint, stuck_runs bigint, stuck_imports bigint, open_alerts bigint)
language plpgsql stable set search_path from current as $$
begin
  now := clock_timestamp();
  select count(*) into dead from (
    select from webhook_events e where e.status = 'failed' and e.next_attempt_at is null limit 10001) d;
  select count(*) into stuck_runs from (
    select from cron_job_runs r where r.status = 'running' and r.job_name <> 'seed_runner'
      and r.heartbeat_at + r.run_window < clock_timestamp() and not pgonce_has_heartbeat(r.id, r.run_window) limit 10001) j;
  select count(*) into stuck_imports from pgonce_console_stuck_imports();
  select count(*) into open_alerts from pgonce_console_alerts(p_limit => 1000) a where a.open and a.muted_until is null;
  return next;
end $$;
comment on function pgonce_console_shell() is
  'pgonce: the counts that every page of the console shows; more than 10,000 are counted as 10,001.';

create or replace function pgonce_console_facts()
returns table (
  now timestamptz, last_received_at timestamptz,
  refused bigint, refused_reason text, silent text,
  compared_at timestamptz, compared_by text, compared jsonb,
  waiting bigint, oldest_due_at timestamptz, late_events bigint,
  ticks bigint,
  dead bigint, dead_causes bigint, dead_type text, dead_line text, dead_of_cause bigint,
  stale_runs bigint, stale_run uuid, stale_job text, expired_leases bigint,
  handled_p95 interval, handled_p95_before interval, has_schedules boolean, has_queued boolean)
language plpgsql stable set search_path from current as $$
declare
  v_now timestamptz := clock_timestamp();
begin
  now := v_now;
  select e.received_at into last_received_at from webhook_events e order by e.received_at desc limit 1;
  select coalesce(sum(d.deliveries), 0)::bigint, (array_agg(d.reason order by d.deliveries desc))[1] into refused, refused_reason
  from pgonce_list_refused_deliveries(v_now - interval '1 day') d where d.reason not in ('header', 'test');
  select a.message into silent from pgonce_find_delivery_alerts(v_now) a where a.kind = 'deliveries_silent' limit 1;
  select c.checked_at, c.checked_by, c.detail into compared_at, compared_by, compared from pgonce_checks c where c.name = 'stripe';

  select count(*), min(e.next_attempt_at), count(*) filter (where e.next_attempt_at < v_now - interval '1 minute')
  into waiting, oldest_due_at, late_events
  from (select w.next_attempt_at from webhook_events w where w.next_attempt_at <= v_now order by w.next_attempt_at limit 10001) e;
  select count(*) into ticks from (
    select from cron_job_runs r where r.started_at > v_now - interval '1 day' and r.scheduled_for is not null limit 10001) t;

  select sum(c.n)::bigint, count(*), (array_agg(c.event_type order by c.n desc))[1], (array_agg(c.line order by c.n desc))[1], max(c.n)
  into dead, dead_causes, dead_type, dead_line, dead_of_cause
  from (select d.event_type, d.line, count(*) as n from (
          select e.event_type, pgonce_error_line(e.error_message) as line from webhook_events e
          where e.status = 'failed' and e.next_attempt_at is null limit 1001) d group by 1, 2) c;
  select count(*), (array_agg(s.id))[1], (array_agg(s.job_name))[1] into stale_runs, stale_run, stale_job from (
    select r.id, r.job_name from cron_job_runs r
    where r.status = 'running' and r.job_name <> 'seed_runner' and r.heartbeat_at + r.run_window < v_now
      and not pgonce_has_heartbeat(r.id, r.run_window) order by r.heartbeat_at limit 1000) s;
  select count(*) into expired_leases from (
    select from webhook_events e where e.status = 'processing' and not e.queued and e.lease_expires_at < v_now - interval '1 minute'
    limit 1001) x;

  select percentile_disc(0.95) within group (order by s.took) into handled_p95 from (
    select e.processed_at - e.received_at as took from (
      select w.status, w.processed_at, w.received_at from webhook_events w order by w.received_at desc limit 2000) e
    where e.status = 'succeeded' limit 1000) s;
  select percentile_disc(0.95) within group (order by s.took) into handled_p95_before from (
    select e.processed_at - e.received_at as took from (
      select w.status, w.processed_at, w.received_at from webhook_events w where w.received_at < v_now - interval '7 days'
      order by w.received_at desc limit 2000) e
    where e.status = 'succeeded' limit 1000) s;
  has_schedules := exists (select from pgonce_job_schedules);
  has_queued := exists (select from webhook_events e where e.queued and e.received_at > v_now - interval '7 days' limit 1);
  dead := coalesce(dead, 0);
  return next;
end $$;
comment on function pgonce_console_facts() is
  'pgonce: what the console''s first page and the metrics say about the rows. Counts are bounded: 10,001 events, 1,001 dead letters. '
  'compared: the last comparison with Stripe.';

create or replace function pgonce_console_hours(p_hours integer default 24)
returns table (hour timestamptz, succeeded bigint, ignored bigint, waiting bigint, failed bigint)
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
declare
  -- Whole hours of UTC. A zone of half hours sees them half an hour off; its clock is in the label.
  v_from timestamptz := date_bin('1 hour', clock_timestamp(), '2000-01-01 00:00:00Z') - (least(p_hours, 168) - 1) * interval '1 hour';
begin
  return query
    select h, count(*) filter (where e.status = 'succeeded'), count(*) filter (where e.status = 'ignored'),
           count(*) filter (where e.status = 'processing'), count(*) filter (where e.status = 'failed')
    from generate_series(v_from, clock_timestamp(), '1 hour') h
    left join (select date_bin('1 hour', w.received_at, '2000-01-01 00:00:00Z') as at, w.status
               from webhook_events w where w.received_at >= v_from) e on e.at = h
    group by h order by h;
end $$;
comment on function pgonce_console_hours(integer) is
  'pgonce: how many events were received in each of the last hours, by how they stand now. At most 168 hours.';

-- Bounded, where pgonce_list_jobs reads 50 runs of each job: with 1,000 jobs that took 300 ms.
create or replace function pgonce_console_urgent_jobs(p_limit integer default 20, p_names text[] default '{}', p_keys text[] default '{}')
returns table (job_name text, key text, run_id uuid, status text, started_at timestamptz, duration_ms integer, usual_from_ms integer,
               usual_to_ms integer, next_tick timestamptz, attempt integer, next_retry_at timestamptz, stopping boolean,
               progress_done bigint, progress_total bigint, progress_at timestamptz, process text, blocks bigint,
               paused text, missed text, reason text)
language sql stable set search_path from current set jit = off as $$
  with
  latest as (
    select r.job_name, r.key, r.status, r.started_at from cron_job_runs r order by r.started_at desc limit 3000),
  newest as (
    select distinct on (l.job_name, l.key) l.job_name, l.key, l.status, l.started_at from latest l
    where l.status <> 'skipped' and l.job_name <> 'seed_runner' order by l.job_name, l.key, l.started_at desc),
  candidates as (
    (select r.job_name, r.key, 0 as rank, r.started_at as at from cron_job_runs r
     where r.status = 'running' and r.job_name <> 'seed_runner' order by r.started_at limit p_limit)
    union all (select w.name, w.key, 1, null from unnest(p_names, p_keys) w (name, key) limit p_limit)
    union all (select n.job_name, n.key, 2, n.started_at from newest n where n.status = 'failed' order by n.started_at desc limit p_limit)
    union all (select n.job_name, n.key, 3, n.started_at from newest n order by n.started_at desc limit p_limit)
    union all (select s.job_name, s.key, 4, s.updated_at from pgonce_job_schedules s order by s.next_tick limit p_limit)),
  chosen as (
    select c.job_name, c.key, min(c.rank) as rank, max(c.at) as at from candidates c group by c.job_name, c.key
    order by 3, 4 desc nulls last, 1, 2 limit p_limit)
  select c.job_name, c.key, r.id, r.status, r.started_at,
         coalesce(r.duration_ms, case when r.started_at is not null then
           least(extract(epoch from clock_timestamp() - r.started_at) * 1000, 2147483647)::integer end),
         u.ms[1], u.ms[2],
         (select coalesce(min(t) filter (where t > clock_timestamp()), max(t)) from unnest(s.next_tick || s.upcoming) t),
         r.attempt, (select d.due_at from pgonce_job_retries d where d.run_id = r.id),
         coalesce(r.status = 'running' and r.stop_requested_at is not null, false),
         r.progress_done, r.progress_total, r.progress_at, r.process,
         case when r.status = 'running' then (
           select count(*) from (select from cron_job_runs b where b.job_name = r.job_name and b.started_at >= r.started_at
                                   and b.blocked_by = r.id limit 1000) b) end,
         (select p.reason || coalesce(' until ' || date_trunc('minute', p.paused_until), '') from pgonce_job_pauses p
          where p.job_name = c.job_name and coalesce(p.paused_until, 'infinity') > clock_timestamp()),
         null::text, case when r.status = 'failed' then pgonce_error_line(r.error_message)
                          else pgonce_job_run_silence(r.id, r.status, r.heartbeat_at, r.run_window) end
  from chosen c
  left join lateral (
    select h.* from (select * from cron_job_runs n where n.job_name = any (array[c.job_name]) order by n.job_name, n.started_at desc limit 200) h
    where h.key = c.key and h.status <> 'skipped' order by h.started_at desc limit 1) r on true
  left join lateral (
    select percentile_disc(array[0.1, 0.9]) within group (order by h.duration_ms) as ms, count(*) as runs
    from (select * from cron_job_runs n where n.job_name = any (array[c.job_name]) order by n.job_name, n.started_at desc limit 50) h
    where h.key = c.key and h.status = 'succeeded' having count(*) >= 5) u on true
  left join pgonce_job_schedules s on s.job_name = c.job_name and s.key = c.key
  order by c.rank, c.at desc nulls last, c.job_name, c.key
$$;
comment on function pgonce_console_urgent_jobs(integer, text[], text[]) is
  'pgonce: the jobs that run, then those of p_names and p_keys, then those that failed, then the newest, with the columns of '
  'pgonce_list_jobs, in which missed is null.';

create or replace function pgonce_console_missed_ticks(p_since interval default '1 day')
returns table (job_name text, key text, scheduled_for timestamptz, missed_at timestamptz, reason text)
language sql stable set search_path from current as $$
  select m.job_name, m.key, m.scheduled_for, m.missed_at, m.reason from pgonce_job_missed m
  where m.missed_at > clock_timestamp() - p_since order by m.scheduled_for desc, m.job_name, m.key limit 1000
$$;
comment on function pgonce_console_missed_ticks(interval) is 'pgonce: the ticks that were missed within p_since, the newest 1,000.';
