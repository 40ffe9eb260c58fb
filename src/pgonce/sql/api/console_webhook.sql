-- What the console shows of one event: its row, its history, its neighbours, what changed, its payload.

create or replace function pgonce_webhook_state(p_status text, p_next_attempt_at timestamptz, p_lease uuid) returns text
language sql immutable parallel safe set search_path from current as $$
  select case when p_status = 'failed' and p_next_attempt_at is null then 'dead'
              when p_status = 'processing' and p_lease is null then 'waiting' else p_status end
$$;
comment on function pgonce_webhook_state(text, timestamptz, uuid) is
  'pgonce: an event''s state for people: its status, but dead = failed without a next attempt, and waiting = nobody holds it.';

create or replace function pgonce_webhook_created(p_payload jsonb) returns timestamptz
language plpgsql immutable set search_path from current as $$
begin
  return case jsonb_typeof(p_payload -> 'created') when 'number' then to_timestamp((p_payload ->> 'created')::double precision)
              when 'string' then (substring(p_payload ->> 'created' from '^\d{4}-.*'))::timestamptz end;  -- of a thin event
exception when data_exception then return null;
end $$;
comment on function pgonce_webhook_created(jsonb) is 'pgonce: when Stripe created the event; null if the payload does not say it.';

create or replace function pgonce_json_text(p_value jsonb) returns text
language sql immutable parallel safe set search_path from current as $$
  select left(case jsonb_typeof(p_value) when 'null' then 'null' else p_value #>> '{}' end, 300)
$$;
comment on function pgonce_json_text(jsonb) is 'pgonce: the beginning of a JSON value as text; a string without its quotes.';

create or replace function pgonce_console_webhook(p_stripe_event_id text)
returns table (id uuid, stripe_event_id text, event_type text, state text, queued boolean, attempts integer, deliveries integer,
               object_id text, object_type text, customer_id text, subscription_id text, account text, livemode boolean,
               api_version text, created timestamptz, received_at timestamptz, processed_at timestamptz,
               next_attempt_at timestamptz, lease_expires_at timestamptz, reason text, failure text, error text, size integer,
               exact boolean, snapshot_event text, like_it integer, lease uuid)
language sql stable set search_path from current as $$
  select e.id, e.stripe_event_id, e.event_type, pgonce_webhook_state(e.status, e.next_attempt_at, e.lease), e.queued, e.attempts,
         e.deliveries, e.object_id,
         left(coalesce(o.object ->> 'object', e.payload #>> '{related_object,type}'), 255), e.customer_id,
         left(coalesce(case jsonb_typeof(o.object -> 'subscription') when 'string' then o.object ->> 'subscription'
                                                                     when 'object' then o.object #>> '{subscription,id}' end,
                       o.object #>> '{parent,subscription_details,subscription}'), 255),
         e.account, e.livemode, left(e.payload ->> 'api_version', 255), pgonce_webhook_created(e.payload), e.received_at, e.processed_at, e.next_attempt_at,
         e.lease_expires_at,
         case e.status when 'ignored' then e.ignored_reason when 'succeeded' then null
                       else pgonce_error_line(e.error_message) end,
         case when e.status = 'failed' then e.failure end,
         case when e.status <> 'succeeded' then right(e.error_message, 20000) end,
         coalesce(octet_length(e.raw), pg_column_size(e.payload)), e.raw is not null, e.snapshot_event,
         case when e.status = 'failed' and e.next_attempt_at is null then (
           select count(*)::integer from (
             select 1 from webhook_events d where d.status = 'failed' and d.next_attempt_at is null and d.event_type = e.event_type
               and d.failure = e.failure limit 10001) n) end,
         e.lease
  from webhook_events e cross join lateral (select e.payload #> '{data,object}' as object) o
  where e.stripe_event_id = p_stripe_event_id
$$;
comment on function pgonce_console_webhook(text) is
  'pgonce: one event without its payload. error: the last 20,000 characters of its last traceback. size: of the payload, about, in '
  'bytes. exact: the bytes as received are stored. like_it: dead letters of the same fault, itself included, counted up to 10,001.';

create or replace function pgonce_console_webhook_history(p_id uuid)
returns table (what text, attempt integer, worker text, began_at timestamptz, ended_at timestamptz, line text, error text,
               replay_id bigint)
language sql stable set search_path from current as $$
  select h.what, h.attempt, h.worker, h.began_at, h.ended_at, case when h.what in ('failed', 'lost') then pgonce_error_line(h.error) end,
         h.error, h.replay_id
  from (select a.id, a.what, a.attempt, a.worker, a.began_at, a.ended_at, right(a.error, 20000) as error, a.replay_id
        from pgonce_webhook_attempts a where a.event_id = p_id order by a.id desc limit 100) h
  order by h.id
$$;
comment on function pgonce_console_webhook_history(uuid) is
  'pgonce: the newest 100 failed and lost attempts and replays of an event, in their order. worker: who did it; error: its traceback, or '
  'why it was replayed.';

-- A lane has the neighbours of one event by time of receipt. A payload over 200 kB is not read for the time of its creation.
create or replace function pgonce_console_webhook_lane(
  p_object_id text, p_customer_id text, p_account text, p_livemode boolean, p_at timestamptz, p_id uuid, p_each integer default 10,
  p_since timestamptz default '-infinity')
returns table (id uuid, stripe_event_id text, event_type text, state text, created timestamptz, received_at timestamptz)
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
  return query
    with around as (
      (select e.id from webhook_events e
       where (p_object_id is null or e.object_id = p_object_id) and (p_customer_id is null or e.customer_id = p_customer_id)
         and e.account is not distinct from p_account and e.livemode is not distinct from p_livemode
         and (e.received_at, e.id) <= (p_at, p_id) and e.received_at >= p_since
       order by e.received_at desc, e.id desc limit p_each + 1)
      union all
      (select e.id from webhook_events e
       where (p_object_id is null or e.object_id = p_object_id) and (p_customer_id is null or e.customer_id = p_customer_id)
         and e.account is not distinct from p_account and e.livemode is not distinct from p_livemode
         and (e.received_at, e.id) > (p_at, p_id)
       order by e.received_at, e.id limit p_each))
    select e.id, e.stripe_event_id, e.event_type, pgonce_webhook_state(e.status, e.next_attempt_at, e.lease),
           case when pg_column_size(e.payload) < 200000 then pgonce_webhook_created(e.payload) end, e.received_at
    from around a join webhook_events e on e.id = a.id order by e.received_at, e.id;
end $$;
comment on function pgonce_console_webhook_lane(text, text, text, boolean, timestamptz, uuid, integer, timestamptz) is
  'pgonce: the events of an object, or of a customer, around one of them (its received_at and id), in the order of their receipt: '
  'at most p_each before and after it.';

-- What changed: the fields that Stripe lists in previous_attributes. Without that list the object is compared with the object in
-- the previous event. Objects are compared field by field, lists as a whole.
create or replace function pgonce_json_changes(p_before jsonb, p_now jsonb, p_only_before boolean default false)
returns table (field text, before jsonb, now jsonb)
language sql immutable set search_path from current as $$
  with recursive step (path, before, now) as (
    select '{}'::text[], p_before, p_now
    union all
    select s.path || k.key, s.before -> k.key, s.now -> k.key
    from step s cross join lateral (
      select jsonb_object_keys(s.before) as key
      union
      select key from jsonb_object_keys(s.now) key where not p_only_before) k
    where jsonb_typeof(s.before) = 'object' and jsonb_typeof(s.now) = 'object' and s.before is distinct from s.now
      and cardinality(s.path) < 6)
  select array_to_string(s.path, '.'), s.before, s.now from step s
  where cardinality(s.path) > 0 and s.before is distinct from s.now
    and (jsonb_typeof(s.before) is distinct from 'object' or jsonb_typeof(s.now) is distinct from 'object' or cardinality(s.path) = 6)
  order by s.path limit 60
$$;
comment on function pgonce_json_changes(jsonb, jsonb, boolean) is
  'pgonce: the first 60 fields in which two JSON objects differ; null: not there. p_only_before: only those that p_before has.';

create or replace function pgonce_console_webhook_changes(p_id uuid)
returns table (against text, against_type text, against_at timestamptz, field text, before text, now text)
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
declare
  c_most constant integer := 1000000;  -- bytes of a payload
  v record;
  w record;
begin
  select e.payload #> '{data,object}' as object, e.payload #> '{data,previous_attributes}' as previous, e.object_id, e.account, e.livemode,
         e.received_at
  into v from webhook_events e where e.id = p_id and pg_column_size(e.payload) < c_most;
  if not found then return; end if;
  if jsonb_typeof(v.previous) = 'object' then
    return query select null::text, null::text, null::timestamptz, c.field, pgonce_json_text(c.before), pgonce_json_text(c.now)
                 from pgonce_json_changes(v.previous, v.object, true) c;
    return;
  end if;
  select e.stripe_event_id, e.event_type, e.received_at, e.payload #> '{data,object}' as object into w
  from webhook_events e
  where e.object_id = v.object_id and e.account is not distinct from v.account and e.livemode is not distinct from v.livemode
    and (e.received_at, e.id) < (v.received_at, p_id) and pg_column_size(e.payload) < c_most
  order by e.received_at desc, e.id desc limit 1;
  if not found then return; end if;
  return query select w.stripe_event_id, w.event_type, w.received_at, c.field, pgonce_json_text(c.before), pgonce_json_text(c.now)
               from pgonce_json_changes(w.object, v.object) c;
  if not found then  -- the same content
    return query select w.stripe_event_id, w.event_type, w.received_at, null::text, null::text, null::text;
  end if;
end $$;
comment on function pgonce_console_webhook_changes(uuid) is
  'pgonce: what changed, compared with the values that Stripe sends as previous_attributes (against is null), or without them with the '
  'previous event of the object. null: not there. Payloads over 1 MB are not compared.';

create or replace function pgonce_readable_text(p_bytes bytea) returns text
language plpgsql immutable parallel safe set search_path from current as $$
begin
  return convert_from(p_bytes, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
  return convert_from(p_bytes, 'LATIN1');
end $$;
comment on function pgonce_readable_text(bytea) is 'pgonce: bytes as text: UTF-8, or Latin-1 if they are not UTF-8.';

create or replace function pgonce_console_webhook_payload(p_id uuid, p_from integer default 0, p_length integer default null, p_find text default null)
returns table (part text, starts_at integer, characters integer, exact boolean)
language plpgsql stable set search_path from current as $$
declare
  v_text text;
  v_at integer;
begin
  select case when e.raw is null then jsonb_pretty(e.payload) else pgonce_readable_text(e.raw) end, e.raw is not null into v_text, exact
  from webhook_events e where e.id = p_id;
  if not found then return; end if;
  starts_at := greatest(p_from, 0);
  characters := length(v_text);
  if p_find <> '' then
    v_at := strpos(lower(substr(v_text, starts_at + 1)), lower(p_find));
    if v_at = 0 then
      starts_at := null;
    else  -- from the beginning of the line
      v_at := starts_at + v_at - 1;
      starts_at := v_at - coalesce(nullif(strpos(reverse(substr(v_text, greatest(v_at - 2000, 0) + 1, least(v_at, 2000))), E'\n'), 0) - 1, 0);
    end if;
  end if;
  part := substr(v_text, starts_at + 1, coalesce(p_length, characters));
  return next;
end $$;
comment on function pgonce_console_webhook_payload(uuid, integer, integer, text) is
  'pgonce: a part of an event''s payload as text, from the character p_from (0 is the first) or, from there, the line that has '
  'p_find; starts_at is null if none has it. exact: the bytes as received, else what jsonb stores: all values as they were, keys in '
  'another order.';

create or replace function pgonce_console_webhook_body(p_stripe_event_id text) returns table (body bytea, exact boolean)
language sql stable set search_path from current as $$
  select coalesce(e.raw, convert_to(e.payload::text, 'UTF8')), e.raw is not null from webhook_events e
  where e.stripe_event_id = p_stripe_event_id
$$;
comment on function pgonce_console_webhook_body(text) is
  'pgonce: the payload of an event as bytes. exact: as received, else as jsonb writes it.';
