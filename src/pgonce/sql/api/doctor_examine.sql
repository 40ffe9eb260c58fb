-- What `pgonce doctor` reports about the rows: one line for each area. Every read is bounded.

create or replace function pgonce_examine(p_client_clock timestamptz default null)
returns table (area text, state text, finding text, action text)
language plpgsql stable set search_path from current as $$
declare
  v_now timestamptz := clock_timestamp();
  v_utc constant text := 'YYYY-MM-DD HH24:MI "UTC"';
  v_ahead double precision := extract(epoch from p_client_clock - v_now);
  v_text text;
  v_count bigint;
  v_causes bigint;
  v_id text;
  v_at timestamptz;
  v_used integer;
  v_most integer := current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer;
begin
  -- Stripe's signatures and leases are compared with these clocks; a signature may be 300 s old.
  if abs(v_ahead) >= 5 then
    return query select 'clock', case when abs(v_ahead) >= 60 then 'failure' else 'warning' end,
      format('this machine''s clock is %s %s the database''s', pgonce_duration_text(abs(v_ahead) * interval '1 second'),
             case when v_ahead > 0 then 'ahead of' else 'behind' end),
      'set both by NTP';
  end if;

  select count(*) into v_used from pg_stat_activity where backend_type = 'client backend';
  return query select 'connections', case when v_used > 0.9 * v_most then 'failure' when v_used > 0.75 * v_most then 'warning' else 'ok' end,
    format('%s of %s are in use', v_used, v_most),
    case when v_used > 0.75 * v_most then 'run fewer workers, lower --concurrency, or put a pooler before the server' end;

  select count(*), min(e.next_attempt_at) into v_count, v_at from (
    select w.next_attempt_at from webhook_events w
    where w.next_attempt_at < v_now - interval '5 minutes' order by w.next_attempt_at limit 10000) e;
  if v_count > 0 then
    return query select 'webhooks', 'failure',
      format('%s%s events have been due for over 5 minutes, the first since %s', v_count, case when v_count = 10000 then ' or more' end,
             to_char(v_at at time zone 'UTC', v_utc)),
      case when exists (select from pgonce_live_processes p where p.does = 'events') then 'pgonce ps'
           else 'pgonce worker --app MODULE:APP' end;
  end if;
  select count(*), count(distinct (d.event_type, d.line)), min(d.stripe_event_id) into v_count, v_causes, v_id
  from (select e.stripe_event_id, e.event_type, pgonce_error_line(e.error_message) as line from webhook_events e
        where e.status = 'failed' and e.queued and e.next_attempt_at is null limit 1000) d;
  if v_count > 0 then
    return query select 'webhooks', 'warning',
      format('%s%s of %s', case v_count when 1 then '1 dead letter' else v_count || ' dead letters' end,
             case when v_count = 1000 then ' or more' end, case v_causes when 1 then 'one cause' else v_causes || ' causes' end),
      'pgonce webhook ls --status dead';
  end if;
  if not exists (select from webhook_events e where e.next_attempt_at < v_now - interval '5 minutes') and v_count = 0 then
    return query select 'webhooks', 'ok', 'no event is late, and there are no dead letters', null::text;
  end if;

  select sum(d.deliveries), (array_agg(d.reason order by d.deliveries desc))[1] into v_count, v_text
  from pgonce_list_refused_deliveries(v_now - interval '1 day') d where d.reason not in ('header', 'test');
  return query select 'refused', case when v_count >= 3 then 'failure' when v_count > 0 then 'warning' else 'ok' end,
    case when v_count > 0 then format('%s in 24 hours, mostly for "%s"',
                                      case v_count when 1 then '1 delivery' else v_count || ' deliveries' end, v_text)
         else 'no delivery in 24 hours' end,
    case when v_count > 0 then 'pgonce webhook refused' end;

  select count(*), min(r.id::text) into v_count, v_id from cron_job_runs r
  where r.status = 'running' and r.heartbeat_at + r.run_window < v_now;
  if v_count > 0 then
    return query select 'jobs', 'warning',
      case v_count when 1 then '1 run has sent no heartbeat for its window' else v_count || ' runs have sent no heartbeat for their window' end
        || ', and the next start takes over', 'pgonce job show ' || v_id;
  end if;
  select count(*), min(m.job_name) into v_used, v_text from (
    select n.job_name from pgonce_job_missed n where n.missed_at > v_now - interval '7 days' limit 1000) m;
  if v_used > 0 then
    return query select 'jobs', 'failure',
      format('%s did not run within 7 days, among them of job %s', case v_used when 1 then '1 tick' else v_used || ' ticks' end, v_text),
      'pgonce job ls --job ' || pgonce_shell_word(v_text);
  elsif v_count = 0 then
    return query select 'jobs', 'ok', 'every tick of the last 7 days has run, and no run is stale', null::text;
  end if;

  select count(*), min(s.seed_name) into v_count, v_text from seed_checkpoints s
  where s.status = 'failed' or s.status = 'in_progress' and s.paused_at is null and s.last_updated_at < v_now - interval '15 minutes'
    and not exists (select from pgonce_get_runners(s.seed_name) w where w.alive);
  return query select 'imports', case when v_count = 0 then 'ok' else 'warning' end,
    case v_count when 0 then 'none has failed or stalled' when 1 then 'import ' || v_text || ' has failed or stalled'
                 else format('%s have failed or stalled, among them %s', v_count, v_text) end,
    case when v_count > 0 then 'pgonce seed show ' || pgonce_shell_word(v_text) end;

  select count(*) into v_count from pgonce_live_processes;
  return query select 'processes', 'ok', case v_count when 0 then 'none runs' when 1 then '1 service runs' else v_count || ' services run' end,
    null::text;

  select min(a.created_at), count(*), (array_agg(a.last_error order by a.created_at))[1] into v_at, v_count, v_text
  from (select b.created_at, b.last_error from pgonce_alerts b
        where b.delivered_at is null and b.created_at < v_now - interval '10 minutes'
          and not exists (select from pgonce_alert_mutes m where m.kind = b.kind and m.subject = b.subject and m.muted_until > v_now)
        order by b.created_at limit 1000) a;
  if v_count > 0 then
    return query select 'alerts', 'failure',
      format('%s not delivered, the first from %s: %s', case v_count when 1 then '1 is' else v_count || ' are' end,
             to_char(v_at at time zone 'UTC', v_utc), coalesce(v_text, 'no worker has tried')),
      'check the channel''s URL, and that a worker with it runs';
  elsif not exists (select from pgonce_alert_channels) then
    return query select 'alerts', 'warning', 'nobody is alerted when something fails', 'pgonce worker --app MODULE:APP --alert URL';
  elsif not exists (select from pgonce_alert_channels c where c.looked_at > v_now - interval '10 minutes') then
    return query select 'alerts', 'failure', 'no worker has looked for 10 minutes', 'pgonce worker --app MODULE:APP --alert URL';
  else
    return query select 'alerts', 'ok', 'all are delivered', null::text;
  end if;

  -- The ages of weekly_cleanup plus a week.
  select least(
    (select min(e.received_at) from webhook_events e where e.received_at < v_now - interval '97 days'
       and (e.status in ('succeeded', 'ignored') or e.status = 'failed' and e.next_attempt_at is null)),
    (select min(r.started_at) from cron_job_runs r where r.started_at < v_now - interval '187 days' and r.status = 'skipped')) into v_at;
  return query select 'retention', case when v_at is null then 'ok' else 'warning' end,
    format('%s; webhook_events and cron_job_runs take %s', case when v_at is null then 'nothing is overdue for deletion'
             else 'rows of ' || to_char(v_at at time zone 'UTC', 'YYYY-MM-DD') || ' are overdue for deletion' end,
           (select pg_size_pretty(sum(pg_total_relation_size(t))) from unnest(array['webhook_events', 'cron_job_runs']::regclass[]) t)),
    case when v_at is not null then 'pgonce cleanup' end;
end $$;
comment on function pgonce_examine(timestamptz) is
  'pgonce: what `pgonce doctor` says about the rows: state is ok, warning or failure, action what to do. p_client_clock: the time of the '
  'machine that asks, now.';
