-- Storing what alerts_find.sql finds, one row for each channel.

create or replace function pgonce_collect_alerts(p_channels text[], p_every interval default '0') returns integer
language plpgsql set search_path from current as $$
declare
  v_channels text[];
  v_since timestamptz;
  v_watched uuid[];
  v_unfinished uuid[];
  v_now timestamptz := clock_timestamp();
  v_written integer;
begin
  insert into pgonce_alert_channels (channel) select distinct c from unnest(p_channels) c
  where not exists (select from pgonce_alert_channels a where a.channel = c) order by c on conflict do nothing;
  -- skip locked: whoever holds it is looking right now
  select array_agg(c.channel), min(coalesce(c.looked_at - interval '1 hour', v_now - interval '1 day'))
  into v_channels, v_since
  from (select * from pgonce_alert_channels where channel = any (p_channels) and (looked_at is null or looked_at <= v_now - p_every)
        order by channel for update skip locked) c;
  if v_channels is null then return 0; end if;
  select array_agg(distinct w.id) into v_watched from pgonce_alert_channels c, unnest(c.watched) as w (id)
  where c.channel = any (v_channels);
  -- Before the look: a run that ends between the two is found by this look, and again by the next. One that waits for its
  -- retry may get none, hours after it failed.
  select array_agg(id) into v_unfinished
  from (select id from cron_job_runs where status = 'running' union all select run_id from pgonce_job_retries) r;
  insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, detail)
  select c, f.kind, f.subject, f.dedupe_key, f.message, f.detail
  -- The hour is for transactions that took long to commit; a look after a long silence goes no further back than a week.
  from pgonce_find_alerts(greatest(v_since, v_now - interval '7 days'), v_watched || v_unfinished) f, unnest(v_channels) c
  on conflict do nothing;
  get diagnostics v_written = row_count;
  update pgonce_alert_channels set looked_at = v_now, watched = coalesce(v_unfinished, '{}') where channel = any (v_channels);
  delete from pgonce_alerts where created_at < v_now - interval '30 days';
  return v_written;
end $$;
comment on function pgonce_collect_alerts(text[], interval) is
  'pgonce: stores what is worth telling since the last look, once for each of these channels, however many workers call it. A new '
  'channel is told of the last day. A channel that was looked at less than p_every ago is left out. '
  'Alerts older than 30 days are deleted. Returns how many are new.';
