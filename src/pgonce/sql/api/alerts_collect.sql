-- Stores the alerts that alerts_find.sql finds: one row for each alert and channel, however many workers look.

create or replace function pgonce_collect_alerts(p_channels text[], p_every interval default '0') returns integer
language plpgsql set search_path from current as $$
declare
  v_channels text[];
  v_since timestamptz;
  v_watched uuid[];
  v_unfinished uuid[];
  v_now timestamptz := clock_timestamp();
  v_new integer;
begin
  insert into pgonce_alert_channels (channel) select distinct c from unnest(p_channels) c
  where not exists (select from pgonce_alert_channels a where a.channel = c) order by c on conflict do nothing;
  -- skip locked: the worker that has locked the row is collecting now.
  select array_agg(c.channel), min(least(coalesce(c.looked_at - interval '1 hour', v_now - interval '1 day'), v_now - interval '1 hour'))
  into v_channels, v_since
  from (select * from pgonce_alert_channels where channel = any (p_channels)
          -- the clock may have been set back, as by a failover: a look in the future must not keep others from looking until then
          and (looked_at is null or looked_at <= v_now - p_every or looked_at > v_now + interval '1 minute')
        order by channel for update skip locked) c;
  if v_channels is null then return 0; end if;
  select array_agg(distinct w.id) into v_watched from pgonce_alert_channels c, unnest(c.watched) as w (id)
  where c.channel = any (v_channels);
  -- After the clock was set back, a mute would last until the clock has caught up.
  update pgonce_alert_mutes set muted_at = v_now, muted_until = muted_until - (muted_at - v_now)
  where muted_at > v_now + interval '1 minute';
  -- This is read before pgonce_find_alerts is called: a run that ends between the two is found by this call, and again by the
  -- next. A run that waits for its retry may never get one, hours after it failed.
  select array_agg(id) into v_unfinished
  from (select id from cron_job_runs where status = 'running' union all select run_id from pgonce_job_retries) r;
  -- An alert with a count replaces those of its series with a smaller count that no worker has claimed. It is not stored if
  -- there is one with a larger count. An alert that no worker has claimed is kept up to date.
  with found as materialized (
    -- The hour is for transactions that took long to commit. After a long pause only the last week is searched. Distinct, because
    -- of two rows with one dedupe_key the INSERT below would make an error, and no alert of any job would be stored.
    select distinct on (f.dedupe_key) f.*
    from pgonce_find_alerts(greatest(v_since, v_now - interval '7 days'), v_watched || v_unfinished) f
    order by f.dedupe_key, f.happened_at),
  replaced as (
    delete from pgonce_alerts a using found f, generate_series(1, f.digits - 1) d
    where a.channel = any (v_channels) and a.dedupe_key = f.series || '/' || d::text and a.delivered_at is null and a.attempts = 0),
  stored as (
    insert into pgonce_alerts as a (channel, kind, subject, dedupe_key, message, detail, next_attempt_at)
    select c, f.kind, f.subject, f.dedupe_key, f.message, f.detail,
           -- a muted alert is due at the end of its mute
           coalesce((select m.muted_until from pgonce_alert_mutes m
                     where m.kind = f.kind and m.subject = f.subject and m.muted_until > v_now), clock_timestamp())
    from found f cross join unnest(v_channels) c
    where not exists (select from pgonce_alerts a, generate_series(f.digits + 1, 9) d
                      where a.channel = c and a.dedupe_key = f.series || '/' || d::text)
    order by f.happened_at, f.dedupe_key, c
    on conflict (channel, dedupe_key) do update set message = excluded.message, detail = excluded.detail
      where a.delivered_at is null and a.attempts = 0 and a.message is distinct from excluded.message
    returning a.xmax = 0 as is_new)
  select count(*) filter (where is_new) into v_new from stored;
  -- At the end of a mute only what is still open is delivered.
  update pgonce_alerts a set delivered_at = clock_timestamp(), last_error = 'muted until its cause was gone'
  from pgonce_alert_mutes m
  where a.channel = any (v_channels) and a.delivered_at is null and a.attempts = 0 and m.kind = a.kind and m.subject = a.subject
    and m.muted_until <= v_now and a.created_at < m.muted_until
    and not pgonce_alert_is_open(a.kind, a.subject, a.detail, a.created_at);
  update pgonce_alert_channels set looked_at = v_now, watched = coalesce(v_unfinished, '{}') where channel = any (v_channels);
  delete from pgonce_alerts where created_at < v_now - interval '30 days';
  return v_new;
end $$;
comment on function pgonce_collect_alerts(text[], interval) is
  'pgonce: stores the alerts that pgonce_find_alerts finds since the last call, once for each of these channels, however many '
  'workers call it. A new channel gets those of the last day. A channel for which this ran less than p_every ago is left out. '
  'Alerts older than 30 days are deleted. Returns the number of new alerts.';
