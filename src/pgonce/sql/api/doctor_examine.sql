-- What `pgonce doctor` reports about the rows: one line for each area. Every read is bounded.

create or replace function pgonce_reset_command(p_setting text) returns text
language sql stable set search_path from current as $$
  select case s.source  -- by the role that has logged in: `set role` applies no settings
    when 'user' then format('alter role %I reset %I', session_user, p_setting)
    when 'database' then format('alter database %I reset %I', current_database(), p_setting)
    when 'database user' then format('alter role %I in database %I reset %I', session_user, current_database(), p_setting)
    when 'client' then format('take %s out of the database URL and PGOPTIONS', p_setting)
    when 'session' then format('do not set %s in the session', p_setting)
    else format('take %s out of postgresql.conf', p_setting) end
  from pg_settings s where s.name = p_setting
$$;
comment on function pgonce_reset_command(text) is 'pgonce: how to end what gave a setting its value in this session.';

create or replace function pgonce_examine(p_client_clock timestamptz default null, p_pooled boolean default false)
returns table (area text, state text, finding text, action text)
language plpgsql stable set search_path from current as $$
declare
  v_now timestamptz := clock_timestamp();
  v_utc constant text := 'YYYY-MM-DD HH24:MI "UTC"';
  v_ahead double precision := extract(epoch from p_client_clock - v_now);
  v_text text;
  v_count bigint;
  v_late boolean;
  v_causes bigint;
  v_id text;
  v_at timestamptz;
  v_used integer;
  -- the smallest of the limits of server, database and role; -1 means no limit
  v_most integer := (
    select min(l.connections) from (values
      (current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer),
      ((select d.datconnlimit from pg_database d where d.datname = current_database())),
      ((select r.rolconnlimit from pg_roles r where r.rolname = current_user))) as l (connections) where l.connections >= 0);
  v_budget integer;
  v_jobs integer;
  v_at_once integer;
  v_drift text;
begin
  -- Stripe's signatures and leases are compared with these clocks; a signature may be 300 s old.
  if abs(v_ahead) >= 5 then
    return query select 'clock', case when abs(v_ahead) >= 60 then 'failure' else 'warning' end,
      format('this machine''s clock is %s %s the database''s', pgonce_duration_text(abs(v_ahead) * interval '1 second'),
             case when v_ahead > 0 then 'ahead of' else 'behind' end),
      'set both by NTP';
  end if;

  if current_setting('row_security') = 'off'
     and (select bool_or(row_security_active(t)) from unnest(array['webhook_events', 'cron_job_runs', 'seed_checkpoints']) t) then
    return query select 'rls', 'failure', format('row_security is off for role %s, so PostgreSQL refuses each of its statements', session_user),
      pgonce_reset_command('row_security');
    return;  -- nothing after this could be read
  elsif (select bool_or(row_security_active(t)) from unnest(array['webhook_events', 'cron_job_runs', 'seed_checkpoints']) t)
     and not exists (select from pg_policy p where p.polrelid = 'webhook_events'::regclass
                     and exists (select from unnest(p.polroles) r where r = 0 or pg_has_role(r, 'usage'))) then
    return query select 'rls', 'failure', format('row-level security hides every row from role %s', current_user),
      'connect as the owner of the tables, or as a member of service_role';
  end if;

  if current_setting('session_replication_role') = 'replica' then
    return query select 'triggers', 'failure',
      format('session_replication_role is replica for role %s, so a run that a client inserts itself replaces no crashed one', session_user),
      pgonce_reset_command('session_replication_role');
  end if;

  select count(*) into v_used from pg_stat_activity where backend_type = 'client backend';
  -- A worker opens two connections more than it handles at once, and asynchronous handlers have a pool of the same size.
  select coalesce(sum(coalesce(p.capacity, 2) + 2), 0) into v_budget from pgonce_live_processes p;
  return query select 'connections',
    case when v_used > 0.9 * v_most then 'failure' when v_used > 0.75 * v_most or not p_pooled and v_budget > v_most then 'warning' else 'ok' end,
    format('%s of %s are in use', v_used, v_most)
      || case when v_budget > 0 then format(', and the services that run may open %s', v_budget) else '' end,
    case when v_used > 0.75 * v_most or not p_pooled and v_budget > v_most
         then 'run fewer workers, lower --concurrency, or put a pooler before the server' end;

  select count(*), min(d.due_at) into v_count, v_at
  from pgonce_due_webhooks(v_now - interval '5 minutes', 10000) d where not d.held;
  v_late := v_count > 0;
  if v_late then
    return query select 'webhooks', 'failure',
      format('%s%s events have been due for over 5 minutes, the first since %s', pgonce_number_text(v_count), case when v_count = 10000 then ' or more' end,
             to_char(v_at at time zone 'UTC', v_utc)),
      case when exists (select from pgonce_live_processes p where p.does = 'events') then pgonce_command('pgonce ps')
           else pgonce_command('pgonce worker --app MODULE:APP') end;
  end if;
  select count(*), count(distinct (d.event_type, d.line)), min(d.stripe_event_id) into v_count, v_causes, v_id
  from (select e.stripe_event_id, e.event_type, pgonce_error_line(e.error_message) as line from webhook_events e
        where e.status = 'failed' and e.queued and e.next_attempt_at is null limit 1000) d;
  if v_count > 0 then
    return query select 'webhooks', 'warning',
      format('%s%s of %s', case v_count when 1 then '1 dead letter' else pgonce_number_text(v_count) || ' dead letters' end,
             case when v_count = 1000 then ' or more' end, case v_causes when 1 then 'one cause' else v_causes::text || ' causes' end),
      pgonce_command('pgonce webhook ls --status dead');
  end if;
  if not v_late and v_count = 0 then
    return query select 'webhooks', 'ok', 'no event is late, and there are no dead letters', null::text;
  end if;

  select sum(d.deliveries), (array_agg(d.reason order by d.deliveries desc))[1] into v_count, v_text
  from pgonce_list_refused_deliveries(v_now - interval '1 day') d where d.reason not in ('header', 'test');
  return query select 'refused', case when v_count >= 3 then 'failure' when v_count > 0 then 'warning' else 'ok' end,
    case when v_count > 0 then format('%s in 24 hours, mostly for "%s"',
                                      case v_count when 1 then '1 delivery' else pgonce_number_text(v_count) || ' deliveries' end, v_text)
         else 'no delivery was refused in 24 hours' end,
    case when v_count > 0 then pgonce_command('pgonce webhook refused') end;

  select count(*), min(r.id::text) into v_count, v_id from cron_job_runs r
  where r.status = 'running' and r.heartbeat_at + r.run_window < v_now and not pgonce_has_heartbeat(r.id, r.run_window);
  if v_count > 0 then
    return query select 'jobs', 'warning',
      case v_count when 1 then '1 run has sent no heartbeat for its window' else pgonce_number_text(v_count) || ' runs have sent no heartbeat for their window' end
        || ', and the next start takes over', pgonce_command('pgonce job show RUN', v_id);
  end if;
  select count(*), min(m.job_name) into v_used, v_text from (
    select n.job_name from pgonce_job_missed n where n.missed_at > v_now - interval '7 days' limit 1000) m;
  select count(*) into v_jobs from (
    select s.job_name, s.key from pgonce_job_schedules s union select e.job_name, e.key from pgonce_job_expectations e) j;
  if v_used > 0 then
    return query select 'jobs', 'failure',
      format('%s did not run within 7 days, among them of job %s', case v_used when 1 then '1 tick' else pgonce_number_text(v_used) || ' ticks' end, v_text),
      pgonce_command('pgonce job ls --job NAME', v_text);
  end if;
  -- Of the newest 100,000 runs, those that began before an earlier one of their job and key had ended.
  select count(*), min(o.job_name) into v_at_once, v_text from (
    select r.job_name, r.started_at, max(coalesce(r.completed_at, 'infinity')) over (
             partition by r.job_name, r.key order by r.started_at, r.id rows between unbounded preceding and 1 preceding) as busy_until
    from (select c.id, c.job_name, c.key, c.started_at, c.completed_at from cron_job_runs c
          where c.started_at > v_now - interval '7 days' and c.status <> 'skipped'
          order by c.started_at desc limit 100000) r) o
  where o.started_at < o.busy_until;
  if v_at_once > 0 then
    return query select 'jobs', 'failure',
      format('%s overlapped an earlier one within 7 days, among them of job %s: some client wrote cron_job_runs by hand',
             case v_at_once when 1 then '1 run' else pgonce_number_text(v_at_once) || ' runs' end, v_text),
      pgonce_command('pgonce job ls --job NAME', v_text);
  elsif v_count = 0 and v_used = 0 then
    return query select 'jobs', 'ok', case when v_jobs = 0 then 'none is scheduled or expected'
      else format('%s of %s ran when they should', v_jobs, v_jobs) end || '; no run is stale', null::text;
  end if;

  select count(*), min(s.seed_name) into v_count, v_text from seed_checkpoints s
  where s.status = 'failed' or s.status = 'in_progress' and s.paused_at is null and s.last_updated_at < v_now - interval '15 minutes'
    and not exists (select from pgonce_get_runners(s.seed_name) w where w.alive);
  return query select 'imports', case when v_count = 0 then 'ok' else 'warning' end,
    case v_count when 0 then 'none has failed or stalled' when 1 then 'import ' || v_text || ' has failed or stalled'
                 else format('%s have failed or stalled, among them %s', v_count, v_text) end,
    case when v_count > 0 then pgonce_command('pgonce seed show NAME', v_text) end;

  select count(distinct l.process) into v_count from pgonce_live_processes l;  -- a process may have several services
  select count(*), min(l.app) into v_used, v_text from pgonce_list_processes() l where l.live and l.outdated;
  -- What a process of the last day handled or ran, and the newest process of its app does not. A glob also handles each of
  -- the types that it matches.
  select string_agg(distinct g.name, ', ' order by g.name) into v_drift
  from (select distinct o.app, o.does, unnest(o.handlers || o.jobs) as name from pgonce_processes o where o.app <> '') g
  join (select distinct on (p.app, p.does) p.* from pgonce_live_processes p order by p.app, p.does, p.started_at desc) n
    on n.app = g.app and n.does = g.does
  where g.name <> all (n.jobs || n.handlers)
    and not exists (select from unnest(n.handlers) h (pattern) where g.does = 'events' and g.name ~ pgonce_glob_expression(h.pattern));
  if v_used > 0 or v_drift is not null then
    return query select 'processes', 'warning', concat_ws('; ',
      case when v_used > 0 then format('%s of another release than the newest start of %s', case v_used when 1 then '1 process is' else v_used::text || ' processes are' end, v_text) end,
      case when v_drift is not null then 'the newest release no longer has ' || left(v_drift, 200) end), pgonce_command('pgonce ps');
  elsif exists (select from pgonce_job_schedules) and not exists (select from pgonce_live_processes p where p.does = 'jobs') then
    return query select 'processes', 'failure', 'jobs are scheduled, and no worker runs them', pgonce_command('pgonce worker --app MODULE:APP');
  else
    return query select 'processes', 'ok',
      case v_count when 0 then 'none runs' when 1 then '1 process runs' else v_count::text || ' processes run' end, null::text;
  end if;

  select min(a.created_at), count(*), (array_agg(a.last_error order by a.created_at))[1] into v_at, v_count, v_text
  from (select b.created_at, b.last_error from pgonce_alerts b
        where b.delivered_at is null and b.created_at < v_now - interval '10 minutes'
          and not exists (select from pgonce_alert_mutes m where m.kind = b.kind and m.subject = b.subject and m.muted_until > v_now)
        order by b.created_at limit 1000) a;
  if v_count > 0 then
    return query select 'alerts', 'failure',
      format('%s not delivered, the first from %s: %s', case v_count when 1 then '1 is' else v_count::text || ' are' end,
             to_char(v_at at time zone 'UTC', v_utc), coalesce(v_text, 'no worker has tried')),
      'check the channel''s URL, and that a worker with it runs';
  elsif not exists (select from pgonce_alert_channels) then
    return query select 'alerts', 'warning', 'nobody is alerted when something fails', pgonce_command('pgonce worker --app MODULE:APP --alert URL');
  elsif not exists (select from pgonce_alert_channels c where c.looked_at > v_now - interval '10 minutes') then
    return query select 'alerts', 'failure', 'no worker has looked for 10 minutes', pgonce_command('pgonce worker --app MODULE:APP --alert URL');
  else
    return query select 'alerts', 'ok', 'all are delivered', null::text;
  end if;

  -- The ages of weekly_cleanup plus a week.
  select least(
    (select min(e.received_at) from webhook_events e where e.received_at < v_now - interval '97 days'
       and (e.status in ('succeeded', 'ignored') or e.status = 'failed' and e.next_attempt_at is null)),
    (select min(r.started_at) from cron_job_runs r where r.started_at < v_now - interval '187 days' and r.status = 'skipped')) into v_at;
  return query select 'retention', case when v_at is null then 'ok' else 'warning' end,
    case when v_at is null then 'nothing is overdue for deletion'
         else 'rows of ' || to_char(v_at at time zone 'UTC', 'YYYY-MM-DD') || ' are overdue for deletion; schedule weekly_cleanup, and now' end,
    case when v_at is not null then pgonce_command('pgonce cleanup') end;

  -- An estimate: the size of a row by the statistics, times the rows of the last week. At most 100,000 are counted.
  select count(*), min(n.received_at) into v_count, v_at from (
    select e.received_at from webhook_events e where e.received_at > v_now - interval '7 days' order by e.received_at desc limit 100000) n;
  select pg_size_pretty(sum(pg_total_relation_size(c.oid)))
           || case when v_count > 0 and max(c.reltuples) filter (where c.relname = 'webhook_events') > 0 then
             ', and webhook_events grows by about ' || pg_size_pretty((
               pg_total_relation_size('webhook_events') / max(c.reltuples) filter (where c.relname = 'webhook_events') * v_count
               / greatest(extract(epoch from v_now - v_at) / 86400, 1))::bigint) || ' a day' else '' end,
         max(t.n_dead_tup) filter (where t.n_dead_tup > 100000 and t.n_dead_tup > t.n_live_tup),
         min(c.relname) filter (where t.n_dead_tup > 100000 and t.n_dead_tup > t.n_live_tup)
  into v_text, v_count, v_id
  from pg_class c left join pg_stat_user_tables t on t.relid = c.oid
  where c.relkind = 'r' and c.relnamespace = quote_ident(current_schema())::regnamespace
    and (c.relname in ('webhook_events', 'cron_job_runs', 'seed_checkpoints') or c.relname like 'pgonce\_%');
  return query select 'disk', case when v_count is null then 'ok' else 'warning' end,
    'the tables take ' || v_text || case when v_count is null then '' else format(
      '; %s has %s dead rows, more than live ones: look for an old transaction in pg_stat_activity, then', v_id, pgonce_number_text(v_count)) end,
    case when v_count is not null then format('vacuum %I.%I', current_schema(), v_id) end;
end $$;
comment on function pgonce_examine(timestamptz, boolean) is
  'pgonce: what `pgonce doctor` says about the rows: state is ok, warning or failure, action what to do. p_client_clock: the time of the '
  'machine that asks, now. p_pooled: whether it asks through a pooler, which opens connections for many clients.';
