-- The alerts as the console shows them: one row for each cause, however many channels it goes to.

create or replace function pgonce_alert_is_open(p_kind text, p_subject text, p_detail jsonb, p_created_at timestamptz) returns boolean
language plpgsql stable set search_path from current as $$
declare
  v_job text := p_detail ->> 'job_name';
  -- a detail that some other client wrote must not be an error on every page
  v_run uuid := substring(p_detail ->> 'run_id' from '^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$')::uuid;
begin
  case
    when p_kind in ('run_failed', 'failed_in_a_row') then
      -- until a run of this job and key succeeds
      return coalesce((
        select r.status = 'failed' from (
          select n.status, n.key from cron_job_runs n where n.job_name = any (array[v_job])
          order by n.job_name, n.started_at desc limit 100) r
        where r.status in ('succeeded', 'failed') and (p_detail ->> 'key' is null or r.key = p_detail ->> 'key') limit 1), false);
    when p_kind in ('skipped_in_a_row', 'ran_long') then
      if v_run is null then
        return exists (select from cron_job_runs r where r.status = 'running' and r.job_name = v_job and r.started_at < p_created_at);
      end if;
      return exists (select from cron_job_runs r where r.id = v_run and r.status = 'running');
    when p_kind = 'did_not_run' then
      return not exists (
        select from cron_job_runs r where r.job_name = any (array[v_job]) and r.started_at > p_created_at
          and (p_detail ->> 'key' is null or r.key = p_detail ->> 'key') and r.status <> 'skipped');
    when p_kind in ('dead_webhook', 'webhook_failed') then
      if p_detail ? 'stripe_event_id' then
        return exists (select from webhook_events e where e.stripe_event_id = p_detail ->> 'stripe_event_id'
                         and e.status = 'failed' and e.next_attempt_at is null);
      end if;
      return exists (select from webhook_events e where e.status = 'failed' and e.next_attempt_at is null
                       and e.event_type = coalesce(p_detail ->> 'event_type', p_subject));
    when p_kind in ('import_failed', 'import_stalled') then
      return exists (select from pgonce_console_stuck_imports(p_detail ->> 'seed_name'));
    when p_kind = 'deliveries_refused' then
      return p_created_at > clock_timestamp() - interval '1 hour';
    when p_kind = 'deliveries_silent' then
      return exists (select from pgonce_find_delivery_alerts('infinity') a
                     where a.kind = p_kind and a.subject = p_subject and (a.detail ->> 'last')::timestamptz = (p_detail ->> 'last')::timestamptz);
    else
      return false;  -- recovered: it reports the end of a failure
  end case;
end $$;
comment on function pgonce_alert_is_open(text, text, jsonb, timestamptz) is
  'pgonce: whether the cause of an alert is still there.';

create or replace function pgonce_console_alerts(p_before timestamptz default null, p_limit integer default 50)
returns table (id uuid, kind text, subject text, message text, detail jsonb, created_at timestamptz, open boolean, channels bigint,
               delivered bigint, delivered_at timestamptz, attempts integer, next_attempt_at timestamptz, last_error text,
               muted_until timestamptz, muted_by text, mute_reason text)
language plpgsql stable set search_path from current as $$
declare
  v_channels bigint := greatest((select count(*) from pgonce_alert_channels), 1);  -- each has a row of its own for a cause
begin
  return query
    with newest as (
      select a.* from pgonce_alerts a where p_before is null or a.created_at < p_before
      order by a.created_at desc limit least(p_limit, 1000) * v_channels),
    causes as (
      select distinct on (n.dedupe_key) n.id, n.dedupe_key, n.kind, n.subject, n.message, n.detail, n.created_at
      from newest n order by n.dedupe_key, n.created_at, n.id),
    sent as (
      select n.dedupe_key, count(*) as channels, count(n.delivered_at) as delivered, max(n.delivered_at) as delivered_at,
             max(n.attempts) as attempts, min(n.next_attempt_at) filter (where n.delivered_at is null) as next_attempt_at,
             max(n.last_error) filter (where n.delivered_at is null) as last_error
      from newest n group by n.dedupe_key),
    latest as (  -- one alert of a series is enough to say that it is open
      select c.*, row_number() over (partition by c.kind, c.subject order by c.created_at desc) as place from causes c)
    select l.id, l.kind, l.subject, l.message, l.detail, l.created_at,
           l.place = 1 and pgonce_alert_is_open(l.kind, l.subject, l.detail, l.created_at),
           s.channels, s.delivered, s.delivered_at, s.attempts, s.next_attempt_at, s.last_error,
           m.muted_until, m.muted_by, m.reason
    from latest l join sent s on s.dedupe_key = l.dedupe_key
    left join pgonce_alert_mutes m on m.kind = l.kind and m.subject = l.subject and m.muted_until > clock_timestamp()
    order by l.created_at desc, l.id
    limit least(p_limit, 1000);
end $$;
comment on function pgonce_console_alerts(timestamptz, integer) is
  'pgonce: the alerts, newest first, one row for each cause with its channels together. open: the cause is still there. p_before: '
  'created_at of the last row of the page before.';

create or replace function pgonce_console_mute_alert(p_session uuid, p_id uuid, p_for interval, p_reason text) returns boolean
language plpgsql set search_path from current as $$
declare
  v_actor text := pgonce_console_operator(p_session);
  v_until timestamptz := clock_timestamp() + p_for;
  v_before timestamptz;
  a pgonce_alerts;
begin
  if (p_for between '1 minute' and '31 days') is not true then
    raise sqlstate '22023' using message = 'an alert can be muted for a minute to 31 days';
  end if;
  select * into a from pgonce_alerts where id = p_id;
  if not found then raise sqlstate 'PT404' using message = format('there is no alert %s', p_id); end if;
  delete from pgonce_alert_mutes where muted_until < clock_timestamp() - interval '1 day';
  select muted_until into v_before from pgonce_alert_mutes
  where kind = a.kind and subject = a.subject and muted_until > clock_timestamp() for update;
  insert into pgonce_alert_mutes as m (kind, subject, muted_until, muted_by, reason)
  values (a.kind, a.subject, v_until, v_actor, coalesce(p_reason, ''))
  on conflict (kind, subject) do update
  set muted_at = case when v_before is null then clock_timestamp() else m.muted_at end, muted_until = excluded.muted_until,
      muted_by = excluded.muted_by, reason = excluded.reason;
  update pgonce_alerts set next_attempt_at = v_until where kind = a.kind and subject = a.subject and delivered_at is null;
  perform pgonce_audit_write(
    'mute', 'alert', a.kind || ' ' || a.subject, case when v_before is null then 'delivered' else 'muted until ' || pgonce_utc_text(v_before) end,
    'muted until ' || pgonce_utc_text(v_until), p_reason, p_session,
    p_detail => jsonb_build_object('until', v_until));
  return v_before is null;
end $$;
comment on function pgonce_console_mute_alert(uuid, uuid, interval, text) is
  'pgonce: mutes the alerts that have the kind and the subject of this one. false = they were muted, and this mute has replaced '
  'that one. If the cause of an alert is still there at the end of the mute, it is delivered.';

create or replace function pgonce_console_unmute_alert(p_session uuid, p_id uuid) returns boolean
language plpgsql set search_path from current as $$
declare
  a pgonce_alerts;
begin
  perform pgonce_console_operator(p_session);
  select * into a from pgonce_alerts where id = p_id;
  if not found then raise sqlstate 'PT404' using message = format('there is no alert %s', p_id); end if;
  delete from pgonce_alert_mutes where kind = a.kind and subject = a.subject and muted_until > clock_timestamp();
  if not found then return false; end if;
  update pgonce_alerts set next_attempt_at = clock_timestamp()
  where kind = a.kind and subject = a.subject and delivered_at is null;
  perform pgonce_audit_write('unmute', 'alert', a.kind || ' ' || a.subject, 'muted', 'delivered', p_session => p_session);
  return true;
end $$;
comment on function pgonce_console_unmute_alert(uuid, uuid) is 'pgonce: ends a mute. false = it was not muted.';

create or replace function pgonce_console_channels(out channels bigint, out looked_at timestamptz)
language sql stable set search_path from current as $$
  select count(*), max(c.looked_at) from pgonce_alert_channels c where c.looked_at > clock_timestamp() - interval '1 day'
$$;
comment on function pgonce_console_channels() is
  'pgonce: for how many channels workers have collected alerts within the last day, and when one last did so.';
