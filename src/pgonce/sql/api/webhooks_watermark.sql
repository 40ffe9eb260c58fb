-- The time up to which `pgonce reconcile` has compared the inbox with Stripe's list of events. It is not an import's checkpoint.

create or replace function pgonce_timeline() returns text
language plpgsql stable set search_path from current as $$
begin
  return left(pg_walfile_name(pg_current_wal_lsn()), 8);
exception when others then return 'unknown';  -- a cloud provider's server may not allow access to the WAL's position
end $$;
comment on function pgonce_timeline() is 'pgonce: the timeline of the server''s WAL, which changes when a standby is promoted.';

create or replace function pgonce_get_watermark(p_name text)
returns table ("position" timestamptz, same_timeline boolean)
language sql stable set search_path from current as $$
  select w.position, w.timeline = pgonce_timeline()
  from pgonce_watermarks w where w.name = p_name
$$;
comment on function pgonce_get_watermark(text) is
  'pgonce: the time up to which a comparison is complete, or no row. same_timeline: no failover has happened since. After a '
  'failover, rows committed just before it may be missing.';

create or replace function pgonce_set_watermark(p_name text, p_position timestamptz) returns boolean
language plpgsql set search_path from current as $$
begin
  if coalesce(p_name, '') = '' or p_position is null or not isfinite(p_position) then
    raise sqlstate '22023' using message = 'a watermark needs a name and a time';
  end if;
  insert into pgonce_watermarks as w (name, position, timeline)
  values (p_name, p_position, pgonce_timeline())
  on conflict (name) do update
  set position = excluded.position, timeline = excluded.timeline, updated_at = clock_timestamp()
  where w.position <= excluded.position;
  return found;
end $$;
comment on function pgonce_set_watermark(text, timestamptz) is
  'pgonce: moves the watermark forward. false = it was at that time already, or later.';

create or replace function pgonce_list_webhook_accounts() returns setof text
language sql stable set search_path from current as $$
  select a.account
  -- Other senders' events may have an account, too. And what becomes a header of a request must be an id.
  from (select distinct e.account from webhook_events e
        where e.account ~ '^[A-Za-z0-9_/-]+$' and e.provider = 'stripe' and e.received_at >= now() - interval '30 days') a
  cross join lateral (
    select w.event_type, w.livemode from webhook_events w where w.account = a.account order by w.received_at desc limit 1) n
  -- Stripe lists its events no more. The test mode is connected by itself.
  where n.event_type <> 'account.application.deauthorized' or n.livemode is false
  order by 1
$$;
comment on function pgonce_list_webhook_accounts() is
  'pgonce: the connected accounts whose Stripe events were received in the last 30 days, without those that have disconnected.';

create or replace function pgonce_count_webhooks(p_stripe_event_ids text[]) returns bigint
language sql stable set search_path from current as $$
  select count(*) from webhook_events e where e.stripe_event_id = any (p_stripe_event_ids)
$$;
comment on function pgonce_count_webhooks(text[]) is 'pgonce: how many of these events are in the inbox.';
