-- The lists and details that the command line and the console show, newest first.

-- The columns hold the first 255 characters of an id (webhooks_payload.sql), so those are compared.
--
-- Planned at each call. With one plan for all filters, ten events of an object among 5,000,000 took 6.6 s; by the index they
-- take a millisecond.
create or replace function pgonce_list_webhooks(
  p_status text default null, p_types text default null, p_object_id text default null, p_since timestamptz default null,
  p_dead boolean default false, p_limit integer default 50, p_event_type text default null, p_customer_id text default null,
  p_account text default null)
returns table (stripe_event_id text, event_type text, status text, attempts integer, object_id text, account text,
               livemode boolean, received_at timestamptz, processed_at timestamptz, next_attempt_at timestamptz, reason text)
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
begin
  return query
    select e.stripe_event_id, e.event_type, e.status, e.attempts, e.object_id, e.account, e.livemode, e.received_at,
           e.processed_at, e.next_attempt_at,
           coalesce(e.ignored_reason, pgonce_error_line(e.error_message))
    from webhook_events e
    where (p_status is null or e.status = p_status) and (p_types is null or e.event_type ~ p_types)
      and (p_event_type is null or e.event_type = p_event_type)
      and (p_object_id is null or e.object_id = left(p_object_id, 255)) and (p_since is null or e.received_at >= p_since)
      and (p_customer_id is null or e.customer_id = left(p_customer_id, 255)) and (p_account is null or e.account = left(p_account, 255))
      and (not p_dead or e.status = 'failed' and e.next_attempt_at is null)
    order by e.received_at desc
    limit p_limit;
end $$;
comment on function pgonce_list_webhooks(text, text, text, timestamptz, boolean, integer, text, text, text) is
  'pgonce: events, newest first. p_types is a regular expression, p_event_type one type; p_dead: dead letters only. Ids of objects '
  'and customers are unique within an account and mode: p_account.';

create or replace function pgonce_get_webhook(p_stripe_event_id text) returns jsonb
language sql stable set search_path from current as $$
  select to_jsonb(e) - 'filler' || jsonb_build_object('error_line', pgonce_error_line(e.error_message), 'history', (
    select coalesce(jsonb_agg(to_jsonb(a) - 'event_id' - 'id' || jsonb_build_object(
                      'error_line', case when a.what in ('failed', 'lost') then pgonce_error_line(a.error) end) order by a.id), '[]')
    from pgonce_webhook_attempts a where a.event_id = e.id))
  from webhook_events e where e.stripe_event_id = p_stripe_event_id
$$;
comment on function pgonce_get_webhook(text) is
  'pgonce: one event with all its columns, and its failed attempts and replays (history); null if there is none. error_line: '
  'an error''s own line, without the traceback and what PostgreSQL adds.';

create or replace function pgonce_match_webhooks(p_prefix text) returns setof text
language sql stable set search_path from current as $$
  -- Only the newest 100,000: an index for prefixes would cost time at every INSERT, and people look for ids from a list.
  select n.stripe_event_id
  from (select e.stripe_event_id from webhook_events e order by e.received_at desc limit 100000) n
  where starts_with(n.stripe_event_id, p_prefix)
  limit 3
$$;
comment on function pgonce_match_webhooks(text) is
  'pgonce: up to three of the newest 100,000 events whose id begins with this text, for ids that a list shows shortened.';

create or replace function pgonce_missing_webhooks(p_stripe_event_ids text[]) returns setof text
language sql stable set search_path from current as $$
  select wanted.id from unnest(p_stripe_event_ids) as wanted (id)
  where not exists (select from webhook_events e where e.stripe_event_id = wanted.id)
$$;
comment on function pgonce_missing_webhooks(text[]) is 'pgonce: which of these events were never recorded.';

create or replace function pgonce_delivered_webhooks(p_from bigint, p_to bigint, p_account text default null) returns setof text
language sql stable set search_path from current as $$
  with newest as (
    (select n.* from (select * from webhook_events w where p_account is null order by w.received_at desc limit 20000) n
     where n.account is null order by n.received_at desc limit 200)
    union all
    (select w.* from webhook_events w where w.account = p_account order by w.received_at desc limit 200)),
  delivered as (
    select e.stripe_event_id, coalesce(e.livemode, false) as live
    from newest e
    where e.provider = 'stripe' and e.deliveries > 0 and e.payload ->> 'object' = 'event'
      and e.stripe_event_id not like 'evt\_pgonce\_%'  -- `pgonce webhook send` has sent it
      and case jsonb_typeof(e.payload -> 'created') when 'number' then (e.payload ->> 'created')::numeric between p_from and p_to end)
  select d.stripe_event_id from delivered d where d.live = (select bool_or(o.live) from delivered o)
$$;
comment on function pgonce_delivered_webhooks(bigint, bigint, text) is
  'pgonce: of the 200 newest events of a connected account, or of the platform itself, those that were delivered, and that Stripe '
  'created between two times (unix seconds). Only live ones, if there is any: a comparison with a list that has none of them is '
  'one with another account. The platform''s are looked for among the 20,000 newest events.';

create or replace function pgonce_expiring_dead_letters(p_older_than interval default '90 days')
returns table (stripe_event_id text, event_type text, status text, attempts integer, object_id text, account text,
               livemode boolean, received_at timestamptz, processed_at timestamptz, next_attempt_at timestamptz, reason text)
language sql stable set search_path from current as $$
  select * from pgonce_list_webhooks(p_dead => true, p_limit => null) as l where l.received_at < clock_timestamp() - p_older_than
  union all
  select e.stripe_event_id, e.event_type, e.status, e.attempts, e.object_id, e.account, e.livemode, e.received_at, e.processed_at,
         e.next_attempt_at, 'its client died, and it was not delivered again'
  from webhook_events e
  where e.status = 'processing' and not e.queued and e.lease_expires_at <= clock_timestamp()
    and e.received_at < clock_timestamp() - p_older_than
$$;
comment on function pgonce_expiring_dead_letters(interval) is
  'pgonce: what purge_webhook_events with this age would delete although it was not handled: dead letters, and events whose '
  'client died and that were not delivered again. Report them before they are deleted.';
