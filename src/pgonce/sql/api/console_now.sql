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
  'pgonce: records that a process has just checked something, and what it found.';

-- The live runs are read once for all imports, and the batches only of the few that one of them works on.
create or replace function pgonce_console_stuck_imports(p_seed_name text default null)
returns table (seed_name text, status text, since timestamptz, reason text)
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
begin
  return query
  with live as materialized (
    select r.key, r.scope, r.started_at from cron_job_runs r
    where r.status = 'running' and r.job_name = 'seed_runner'
      and (r.heartbeat_at + r.run_window > clock_timestamp() or pgonce_has_heartbeat(r.id, r.run_window))),
  open as materialized (
    select s.seed_name, s.status, s.last_updated_at, s.paused_at, s.error_message, (
      select min(l.started_at) from live l
      where (l.key = s.seed_name or left(l.key, length(s.seed_name) + 1) = s.seed_name || '/')
        and coalesce(l.scope ->> 'seed_name', s.seed_name) = s.seed_name) as since
    from seed_checkpoints s where s.status <> 'complete' and (p_seed_name is null or s.seed_name = p_seed_name))
  select o.seed_name, o.status, o.last_updated_at, pgonce_error_line(o.error_message) from (
    select n.* from open n
    where n.since is null and (
      n.status = 'failed' or n.paused_at is null and n.last_updated_at < clock_timestamp() - interval '15 minutes')
    order by n.last_updated_at desc limit 1000) o
  union all
  select o.seed_name, 'stalled', greatest(b.last, o.since), null
  from open o cross join lateral pgonce_usual_seed_batch(o.seed_name) b
  where o.since is not null and o.paused_at is null and pgonce_elapsed(greatest(b.last, o.since), clock_timestamp()) > greatest(10 * b.usual, '30 s')
  order by 3 desc;
end $$;
comment on function pgonce_console_stuck_imports(text) is
  'pgonce: the imports, or this one, that have failed, those that have had no batch for 15 minutes and no process, and those that stand still (stalled) '
  'although a process is at work on them, as pgonce_diagnose_seed says it. The newest first.';

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
  -- each alert asks for its cause: 0.2 ms
  select count(*) into open_alerts from pgonce_console_alerts(p_limit => 100) a where a.open and a.muted_until is null;
  return next;
end $$;
comment on function pgonce_console_shell() is
  'pgonce: the counts that every page of the console shows; more than 10,000 are counted as 10,001. open_alerts: among the newest 100.';

-- Without seqscan: with a million events that wait, the planner would read the whole table to find the first 20,000 of them.
create or replace function pgonce_console_facts()
returns table (
  now timestamptz, last_received_at timestamptz,
  refused bigint, refused_reason text, silent text,
  compared_at timestamptz, compared_by text, compared jsonb,
  waiting bigint, waiting_again bigint, oldest_due_at timestamptz, oldest_due_state text, late_events bigint, retrying bigint, retrying_since timestamptz,
  ticks bigint, late_starts bigint, late_start_of text,
  dead bigint, dead_causes bigint, dead_type text, dead_line text, dead_of_cause bigint,
  stale_runs bigint, stale_run uuid, stale_job text, failed_jobs bigint, failed_job text, failed_run uuid, expired_leases bigint,
  leases_counted boolean,
  handled_p95 interval, handled_p95_before interval, long_handlers bigint, long_handler text, long_handler_since timestamptz,
  has_schedules boolean, has_queued boolean, rows_hidden boolean)
language plpgsql stable set search_path from current set enable_seqscan = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_example uuid;
begin
  now := v_now;
  select e.received_at into last_received_at from webhook_events e order by e.received_at desc limit 1;
  select coalesce(sum(d.deliveries), 0)::bigint, (array_agg(d.reason order by d.deliveries desc))[1] into refused, refused_reason
  from pgonce_list_refused_deliveries(v_now - interval '1 day') d where d.reason not in ('header', 'test');
  select a.message into silent from pgonce_find_delivery_alerts(v_now) a where a.kind = 'deliveries_silent' limit 1;
  select c.checked_at, c.checked_by, c.detail into compared_at, compared_by, compared from pgonce_checks c where c.name = 'stripe';

  select count(*) filter (where not d.held), count(*) filter (where not d.held and d.state = 'failed'),
         min(d.due_at) filter (where not d.held), (array_agg(d.state order by d.due_at) filter (where not d.held))[1],
         count(*) filter (where not d.held and d.due_at < v_now - interval '1 minute'),
         count(*) filter (where d.held and d.lease_expires_at < v_now - interval '5 minutes'),
         (array_agg(d.stripe_event_id order by d.lease_expires_at) filter (where d.held and d.lease_expires_at < v_now - interval '5 minutes'))[1],
         min(d.lease_expires_at) filter (where d.held)
  into waiting, waiting_again, oldest_due_at, oldest_due_state, late_events, long_handlers, long_handler, long_handler_since
  from pgonce_due_webhooks(v_now, 10001) d;
  select count(*), min(f.received_at) into retrying, retrying_since
  from (select e.status, e.received_at from webhook_events e where e.next_attempt_at > v_now order by e.next_attempt_at limit 10001) f
  where f.status = 'failed' and f.received_at < v_now - interval '1 hour';
  select count(*) into ticks from (
    select r.scheduled_for from cron_job_runs r where r.started_at > v_now - interval '1 day' order by r.started_at desc limit 10001) t
  where t.scheduled_for is not null;
  -- retries, and runs that somebody has asked for
  select count(*), (array_agg(l.job_name order by l.due_at))[1] into late_starts, late_start_of
  from (select t.job_name, t.due_at from pgonce_job_retries t where t.due_at < v_now - interval '2 minutes'
        union all
        select q.job_name, q.requested_at from pgonce_job_requests q
        where q.answered_at is null and q.requested_at < v_now - interval '2 minutes' limit 1000) l
  where not exists (select from pgonce_job_pauses p where p.job_name = l.job_name and coalesce(p.paused_until, 'infinity') > v_now);

  -- by fault, as pgonce_console_dead_letters; the text of one of the most frequent is enough
  select sum(c.n)::bigint, count(*), max(c.n), (array_agg(c.event_type order by c.n desc))[1], (array_agg(c.id order by c.n desc))[1]
  into dead, dead_causes, dead_of_cause, dead_type, v_example
  from (select d.event_type, d.failure, count(*) as n, (array_agg(d.id))[1] as id from (
          select e.id, e.event_type, e.failure from webhook_events e
          where e.status = 'failed' and e.next_attempt_at is null limit 1001) d group by 1, 2) c;
  select pgonce_error_line(e.error_message) into dead_line from webhook_events e where e.id = v_example;
  select count(*), (array_agg(s.id))[1], (array_agg(s.job_name))[1] into stale_runs, stale_run, stale_job from (
    select r.id, r.job_name from cron_job_runs r
    where r.status = 'running' and r.job_name <> 'seed_runner' and r.heartbeat_at + r.run_window < v_now
      and not pgonce_has_heartbeat(r.id, r.run_window) order by r.heartbeat_at limit 1000) s;
  -- the jobs whose last run has failed, and is not retried
  select count(*), (array_agg(l.job_name order by l.started_at desc))[1], (array_agg(l.id order by l.started_at desc))[1]
  into failed_jobs, failed_job, failed_run
  from (select distinct on (n.job_name, n.key) n.* from (
          select r.id, r.job_name, r.key, r.status, r.started_at from cron_job_runs r order by r.started_at desc limit 3000) n
        where n.status <> 'skipped' and n.job_name <> 'seed_runner' order by n.job_name, n.key, n.started_at desc) l
  where l.status = 'failed' and not exists (select from pgonce_job_retries t where t.run_id = l.id);
  select count(*) filter (where not x.queued and x.lease_expires_at < v_now - interval '1 minute'), count(*) <= 20000
  into expired_leases, leases_counted
  from (select e.queued, e.lease_expires_at from webhook_events e where e.status = 'processing' limit 20001) x;

  select percentile_disc(0.95) within group (order by s.took) into handled_p95 from (
    select pgonce_elapsed(e.received_at, e.processed_at) as took from (
      select w.status, w.processed_at, w.received_at from webhook_events w order by w.received_at desc limit 1000) e
    where e.status = 'succeeded' and isfinite(e.processed_at) and isfinite(e.received_at)) s;
  select percentile_disc(0.95) within group (order by s.took) into handled_p95_before from (
    select pgonce_elapsed(e.received_at, e.processed_at) as took from (
      select w.status, w.processed_at, w.received_at from webhook_events w where w.received_at < v_now - interval '7 days'
      order by w.received_at desc limit 1000) e
    where e.status = 'succeeded' and isfinite(e.processed_at) and isfinite(e.received_at)) s;
  has_schedules := exists (select from pgonce_job_schedules);
  has_queued := exists (
    select from (select e.queued from webhook_events e where e.received_at > v_now - interval '7 days' order by e.received_at desc limit 10000) q
    where q.queued);
  dead := coalesce(dead, 0);
  -- as pgonce_examine says it
  rows_hidden := exists (
    select from unnest(array['webhook_events', 'cron_job_runs', 'seed_checkpoints']) t (name)
    where row_security_active(t.name) and not exists (
      select from pg_policy p where p.polrelid = t.name::regclass
        and exists (select from unnest(p.polroles) r where r = 0 or pg_has_role(r, 'usage'))));
  return next;
end $$;
comment on function pgonce_console_facts() is
  'pgonce: what the console''s first page says about the rows. Counts are bounded: 10,001 events, 1,001 dead letters, the last 3,000 runs. '
  'compared: the last comparison with Stripe. retrying: events that came over an hour ago, and will be tried again. late_starts: retries and '
  'requested runs that nobody has started for two minutes. leases_counted: expired_leases is the number of all. '
  'rows_hidden: row-level security hides all rows of a table from this role.';

create or replace function pgonce_console_hours(p_most integer default 100000)
returns table (hour timestamptz, succeeded bigint, ignored bigint, waiting bigint, failed bigint)
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
declare
  -- Whole hours of UTC. In a time zone with an offset of half an hour they begin at half past, as the label says.
  v_last timestamptz := date_bin('1 hour', clock_timestamp(), '2000-01-01 00:00:00Z');
  v_from timestamptz := v_last - interval '23 hours';
begin
  -- the 100,000th event is found in the index, and what came before the hour after it is left out
  select least(date_bin('1 hour', e.received_at, '2000-01-01 00:00:00Z') + interval '1 hour', v_last) into v_last
  from webhook_events e where e.received_at >= v_from order by e.received_at desc offset p_most limit 1;
  v_from := case when found then v_last else v_from end;
  return query
    select h, coalesce(n.succeeded, 0), coalesce(n.ignored, 0), coalesce(n.waiting, 0), coalesce(n.failed, 0)
    from generate_series(v_from, clock_timestamp(), '1 hour') h
    left join (
      select date_bin('1 hour', e.received_at, '2000-01-01 00:00:00Z') as at, count(*) filter (where e.status = 'succeeded') as succeeded,
             count(*) filter (where e.status = 'ignored') as ignored, count(*) filter (where e.status = 'processing') as waiting,
             count(*) filter (where e.status = 'failed') as failed
      from (select w.received_at, w.status from webhook_events w where w.received_at >= v_from
            order by w.received_at desc limit p_most) e
      group by 1) n on n.at = h
    order by h;
end $$;
comment on function pgonce_console_hours(integer) is
  'pgonce: how many events were received in each of the last 24 hours, by how they stand now. Only as many hours as hold '
  'p_most events; of the last hour, if it holds more, the newest p_most are counted.';

-- Bounded, where pgonce_list_jobs reads 50 runs of each job: with 1,000 jobs that took 300 ms.
create or replace function pgonce_console_urgent_jobs(p_limit integer default 20, p_names text[] default '{}', p_keys text[] default '{}')
returns table (job_name text, key text, run_id uuid, status text, started_at timestamptz, duration_ms integer, usual_from_ms integer,
               usual_to_ms integer, next_tick timestamptz, attempt integer, next_retry_at timestamptz, stopping boolean,
               progress_done bigint, progress_total bigint, progress_at timestamptz, process text, blocks bigint,
               paused text, paused_until timestamptz, missed text, reason text)
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
           pgonce_elapsed_ms(r.started_at, clock_timestamp()) end),
         u.ms[1], u.ms[2],
         pgonce_coming_tick(c.job_name, c.key),
         r.attempt, (select d.due_at from pgonce_job_retries d where d.run_id = r.id),
         coalesce(r.status = 'running' and r.stop_requested_at is not null, false),
         r.progress_done, r.progress_total, r.progress_at, r.process,
         case when r.status = 'running' then (
           select count(*) from (select from cron_job_runs b where b.job_name = r.job_name and b.started_at >= r.started_at
                                   and b.blocked_by = r.id limit 1000) b) end,
         p.reason, p.paused_until, null::text, case when r.status = 'failed' then pgonce_error_line(r.error_message)
                          else pgonce_job_run_silence(r.id, r.status, r.heartbeat_at, r.run_window) end
  from chosen c
  left join lateral (
    -- in the order of the index, so that nearly always the first run is the last one that is read
    select h.* from (select * from cron_job_runs n where n.job_name = any (array[c.job_name]) order by n.job_name, n.started_at desc limit 200) h
    where h.key = c.key and h.status <> 'skipped' order by h.job_name, h.started_at desc limit 1) r on true
  left join lateral (
    select percentile_disc(array[0.1, 0.9]) within group (order by h.duration_ms) as ms, count(*) as runs
    from (select * from cron_job_runs n where n.job_name = any (array[c.job_name]) order by n.job_name, n.started_at desc limit 50) h
    where h.key = c.key and h.status = 'succeeded' having count(*) >= 5) u on true
  left join pgonce_job_pauses p on p.job_name = c.job_name and coalesce(p.paused_until, 'infinity') > clock_timestamp()
  order by c.rank, c.at desc nulls last, c.job_name, c.key
$$;
comment on function pgonce_console_urgent_jobs(integer, text[], text[]) is
  'pgonce: the jobs that run, then those of p_names and p_keys, then those that failed, then the newest, with the columns of '
  'pgonce_list_jobs, in which missed is null.';

create or replace function pgonce_console_missed_ticks()
returns table (job_name text, key text, scheduled_for timestamptz, missed_at timestamptz, reason text)
language sql stable set search_path from current as $$
  select m.job_name, m.key, m.scheduled_for, m.missed_at, m.reason from pgonce_job_missed m
  where m.missed_at > clock_timestamp() - interval '1 day' order by m.scheduled_for desc, m.job_name, m.key limit 1000
$$;
comment on function pgonce_console_missed_ticks() is 'pgonce: the ticks that were missed within a day, the newest 1,000.';
