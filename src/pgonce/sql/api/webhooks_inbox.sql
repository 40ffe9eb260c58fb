-- webhook_events: an inbox in which every event is handled exactly once.
--
-- A row's state is read from its columns:
--   waiting    processing, no lease: queued by a receiver; a worker will claim it
--   held       processing, a lease that has not expired (or the row is locked: a locked row counts as held)
--   expired    processing, a lease that has expired
--   failed     the handler raised; succeeded and ignored are final
--   unhandled  ignored because neither a process nor the route that got it has a handler for its type
-- "held", "expired" and "failed" are states of a direct client's row here. The same states of a queued row end in "q". "stray"
-- and "strayheld" are waiting and heldq of a type that no process has a handler for, while one is running.
--
-- transitions
-- from      | verb                  | to        | because
-- absent    | insert_webhook_if_new | held      | first receipt: the caller owns it
-- waiting   | insert_webhook_if_new | waiting   | no row: a worker will handle it, so answer 200
-- held      | insert_webhook_if_new | PT409     | a 200 here would lose the event if that client dies; Stripe retries
-- heldq     | insert_webhook_if_new | heldq     | no row: if that worker dies, another one claims it
-- expired   | insert_webhook_if_new | held      | its client died: the caller takes it over under a new lease
-- expiredq  | insert_webhook_if_new | heldq     | its worker died: the first caller takes it over
-- failed    | insert_webhook_if_new | held      | a redelivery is the retry
-- failedq   | insert_webhook_if_new | heldq     | a redelivery is the retry, also of a dead letter; a worker can take it over
-- succeeded | insert_webhook_if_new | succeeded | no row: done
-- ignored   | insert_webhook_if_new | ignored   | no row: done
-- unhandled | insert_webhook_if_new | held      | the caller has a handler: no worker gets it any more
-- stray     | insert_webhook_if_new | held      | workers would end it as ignored, and the caller has a handler
-- strayheld | insert_webhook_if_new | PT409     | its holder gives it back, or dies: Stripe retries
-- absent    | pgonce_queue_webhooks        | waiting   | first receipt: a worker may claim it at once
-- absent    | queue_and_claim       | heldq     | first receipt with p_lease_for: claimed for the receiver's worker
-- waiting   | pgonce_queue_webhooks        | waiting   | a duplicate changes nothing
-- held      | pgonce_queue_webhooks        | heldq     | its client may die after our 200: a worker then takes it over
-- heldq     | pgonce_queue_webhooks        | heldq     | a duplicate changes nothing
-- expired   | pgonce_queue_webhooks        | waiting   | its client died: a worker will claim it
-- expiredq  | pgonce_queue_webhooks        | expiredq  | workers claim events with an expired lease anyway
-- failed    | pgonce_queue_webhooks        | waiting   | a redelivery is the retry
-- failedq   | pgonce_queue_webhooks        | waiting   | a redelivery is the retry at once, also of a dead letter
-- succeeded | pgonce_queue_webhooks        | succeeded | done
-- ignored   | pgonce_queue_webhooks        | ignored   | done
-- unhandled | pgonce_queue_webhooks        | waiting   | a process may have a handler by now
-- absent    | complete_webhook      | false     | nothing to complete
-- waiting   | complete_webhook      | false     | nobody holds it, so no lease matches
-- held      | complete_webhook      | succeeded | the lease matches: the status commits with the effect
-- heldq     | complete_webhook      | succeeded | the lease matches
-- expired   | complete_webhook      | succeeded | late, but nobody took it over
-- expiredq  | complete_webhook      | succeeded | late, but nobody took it over
-- failed    | complete_webhook      | false     | an attempt that has failed cannot succeed afterwards
-- failedq   | complete_webhook      | false     | an attempt that has failed cannot succeed afterwards
-- succeeded | complete_webhook      | succeeded | true: the same lease repeats a call whose answer was lost
-- ignored   | complete_webhook      | false     | it was ignored
-- unhandled | complete_webhook      | false     | it was ignored
-- absent    | fail_webhook          | false     | nothing to fail
-- waiting   | fail_webhook          | false     | nobody holds it
-- held      | fail_webhook          | failed    | the lease matches
-- heldq     | fail_webhook          | failedq   | the lease matches
-- expired   | fail_webhook          | failed    | late, but nobody took it over
-- expiredq  | fail_webhook          | failedq   | late, but nobody took it over
-- failed    | fail_webhook          | failed    | true: the same lease repeats a call whose answer was lost
-- failedq   | fail_webhook          | failedq   | true: the same lease repeats a call whose answer was lost
-- succeeded | fail_webhook          | false     | its effect is committed
-- ignored   | fail_webhook          | false     | it was ignored
-- unhandled | fail_webhook          | false     | it was ignored
-- absent    | ignore_webhook        | false     | nothing to ignore
-- waiting   | ignore_webhook        | false     | nobody holds it
-- held      | ignore_webhook        | ignored   | the lease matches
-- heldq     | ignore_webhook        | ignored   | the lease matches
-- expired   | ignore_webhook        | ignored   | late, but nobody took it over
-- expiredq  | ignore_webhook        | ignored   | late, but nobody took it over
-- failed    | ignore_webhook        | false     | an attempt that has failed has ended
-- failedq   | ignore_webhook        | false     | an attempt that has failed has ended
-- succeeded | ignore_webhook        | false     | its effect is committed
-- ignored   | ignore_webhook        | ignored   | true: the same lease repeats a call whose answer was lost
-- unhandled | ignore_webhook        | false     | nobody holds it

create or replace function pgonce_queue_webhooks(
  p_stripe_event_ids text[], p_event_types text[], p_bodies text[], p_raws bytea[] default null, p_order_keys text[] default null,
  p_lease_for interval default null, p_deliveries integer default 1)
returns table (stripe_event_id text, outcome text, id uuid, lease uuid)
-- One plan for all calls. Planning each call took a third of a single INSERT's time.
language plpgsql set search_path from current set enable_seqscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_lease uuid := gen_random_uuid();  -- one for the batch: id and lease together identify a claim
  -- A UUID of version 7 begins with the time. So the index of the primary key grows at its end only: it has no half-empty
  -- pages, and an INSERT does not read an old one.
  v_time text := lpad(to_hex(floor(extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0');
  v_prefix text := left(v_time, 8) || '-' || right(v_time, 4) || '-7';
  v_new text[];
  v_rows uuid[];
  v_leases uuid[];
  v_ids text[] := '{}';
  v_types text[] := '{}';
  v_bodies text[] := '{}';
  v_raws bytea[] := '{}';
  v_keys text[] := '{}';
  r record;
  s record;
  v webhook_events;
begin
  if p_lease_for <= interval '0' or p_lease_for > interval '100 years' then
    raise sqlstate '22023' using message = 'the lease must be longer than zero and at most 100 years';
  end if;
  begin
    with inserted as (
      insert into webhook_events as e
        (id, stripe_event_id, event_type, payload, raw, order_key, received_at, lease, lease_expires_at, attempts, queued,
         next_attempt_at, deliveries)
      select overlay(gen_random_uuid()::text placing v_prefix from 1 for 15)::uuid, b.id, b.type,
             -- A body that is not an event gets a null payload here. The INSERT then fails, and each body is checked alone below.
             case when b.type <> '' and greatest(length(b.id), length(b.type)) <= 255 and left(ltrim(left(b.body, 99), E' \t\r\n'), 1) = '{' then b.body::jsonb end,
             b.raw, b.key, v_now + b.nr * interval '1 microsecond',  -- keeps the order of arrival within the batch
             case when own then v_lease end, case when own then v_now + p_lease_for end, own::integer, true, v_now, p_deliveries
      from unnest(p_stripe_event_ids, p_event_types, p_bodies, p_raws, p_order_keys)
             with ordinality as b (id, type, body, raw, key, nr)
           -- An event with an order key is not claimed here: a worker claims it, after it has checked the others of its object.
           cross join lateral (values (p_lease_for is not null and b.key is null)) as l (own)
      -- Events that are already recorded are left out: DO NOTHING waits for an uncommitted update of the row, which means for
      -- a handler. This is a subquery and not an anti-join: an anti-join that was planned while the table was small hashes
      -- the whole table, also after it has grown.
      where (select true from webhook_events e where e.stripe_event_id = b.id) is null
      -- Sorted by id: two batches that insert the same events in different orders would deadlock. If an id is twice in the
      -- batch, the first one is inserted.
      order by b.id, b.nr
      on conflict (stripe_event_id) do nothing
      returning e.stripe_event_id, e.id, e.lease
    )
    select array_agg(i.stripe_event_id), array_agg(i.id), array_agg(i.lease) into v_new, v_rows, v_leases from inserted i;
  exception when data_exception or program_limit_exceeded or statement_too_complex or not_null_violation or check_violation then
    -- A bad event does not stop the others of the batch: each event is checked alone. The good ones are then queued in the
    -- same order.
    for r in select * from unnest(p_stripe_event_ids, p_event_types, p_bodies, p_raws, p_order_keys)
                           with ordinality as b (id, type, body, raw, key, nr) order by b.nr loop
      begin
        select * into s from pgonce_storable_webhook(r.id, r.type, r.body);
        v_ids    := v_ids    || r.id;
        v_types  := v_types  || r.type;
        v_bodies := v_bodies || case when s.raw is null then r.body else s.payload::text end;
        v_raws   := v_raws   || array[coalesce(r.raw, s.raw)];
        v_keys   := v_keys   || array[r.key];
      exception when invalid_parameter_value then
        return query select r.id, 'refused', null::uuid, null::uuid;
      end;
    end loop;
    if v_ids = p_stripe_event_ids and v_bodies = p_bodies then raise; end if;  -- no single event caused the error
    return query select * from pgonce_queue_webhooks(v_ids, v_types, v_bodies, v_raws, v_keys, p_lease_for, p_deliveries);
    return;
  end;
  if not coalesce(v_new <@ p_stripe_event_ids, true) then  -- a trigger has changed the id: Stripe's next delivery would be new
    perform pgonce_refuse_unwritten_webhook(p_stripe_event_ids[1]);
  end if;
  return query select n.event, 'queued', n.id, n.lease from unnest(v_new, v_rows, v_leases) as n (event, id, lease);
  if cardinality(v_new) = cardinality(p_stripe_event_ids) then return; end if;

  for r in select distinct b.id from unnest(p_stripe_event_ids) as b (id)
           where b.id <> all (coalesce(v_new, '{}')) loop
    select * into v from webhook_events e where e.stripe_event_id = r.id for update skip locked;
    if found and (v.status = 'failed' or v.status = 'processing' and not v.queued
                  or v.status = 'ignored' and v.queued and v.lease is null and v.ignored_reason like 'no handler%') then
      -- Failed, or a direct client's: from now on workers may claim it, at once if no lease is valid. Or it was ignored because no
      -- process had a handler: by now one may have.
      update webhook_events e
      set status = 'processing', queued = true, processed_at = null, ignored_reason = null, deliveries = e.deliveries + 1,
          lease            = case when v.lease_expires_at > clock_timestamp() and v.status = 'processing' then e.lease end,
          lease_expires_at = case when v.lease_expires_at > clock_timestamp() and v.status = 'processing' then e.lease_expires_at end,
          next_attempt_at  = clock_timestamp()
      where e.id = v.id;
      return query select r.id, 'queued', null::uuid, null::uuid;
    elsif found then
      -- not while somebody handles the event: under REPEATABLE READ, the UPDATE that ends the handling would then fail
      if v.status <> 'processing' or v.lease is null then
        begin
          update webhook_events e set deliveries = e.deliveries + 1 where e.id = v.id;
          set constraints all immediate;
        exception when others then  -- a trigger keeps ended events as they are: the count is not worth a 503
          if not pgonce_is_refusal(sqlstate) then raise; end if;
        end;
      end if;
      return query select r.id, case when v.status in ('succeeded', 'ignored') then 'done' else 'queued' end, null::uuid, null::uuid;
    else  -- locked, so somebody is handling it; if that is a direct client, the event may still be lost: busy
      select * into v from webhook_events e where e.stripe_event_id = r.id;
      if not found then
        perform pgonce_refuse_unwritten_webhook(r.id);
      end if;
      return query select r.id,
        case when v.status in ('succeeded', 'ignored') then 'done' when v.queued then 'queued' else 'busy' end, null::uuid, null::uuid;
    end if;
  end loop;
end $$;
comment on function pgonce_queue_webhooks(text[], text[], text[], bytea[], text[], interval, integer) is
  'pgonce: records a batch of events for the workers. Returns one row for each distinct event. queued or done: answer 200. '
  'busy: a direct client is handling it; answer with an error, so that Stripe delivers it again. refused: it is not an event; '
  'answer 400. p_bodies: the bodies as received. p_raws: the bytes, if the text is not exactly the same. p_order_keys: events '
  'with equal keys are handled one at a time, in the order of arrival. p_lease_for: new events without a key are claimed for '
  'the caller at once, for that long, and returned with id and lease. This is for a receiver with a worker in its process. '
  'p_deliveries: 0 for events that were not delivered, but found in the sender''s list.';

-- The end of an attempt waits at most 2 s for a lock: the worker's thread must not wait for a transaction that a handler has
-- prepared and nobody commits. The attempt then has no outcome, and its lease runs out.
--
-- enable_seqscan = off, here and in other functions that look for a row: a session keeps its plans. A plan that was made when
-- the table had eight rows would read the whole table at each call in a burst of 50,000, until the next ANALYZE.
--
-- The next three functions look the row up by its id. They write "processing" as "not in" the other states. With "=", a plan
-- made while the queue was empty uses idx_webhook_events_status. In a burst of 100,000 events every call then reads that
-- whole index (11 ms instead of 0.1 ms), until the next ANALYZE.
create or replace function complete_webhook(p_id uuid, p_lease uuid) returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_order_key text;
begin
  update webhook_events
  set status = 'succeeded', processed_at = clock_timestamp(), error_message = null, next_attempt_at = null, filler = null
  where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored')
  returning order_key into v_order_key;
  if not found then
    perform pgonce_refuse_unwritten_webhook(e.stripe_event_id) from webhook_events e
    where e.id = p_id and e.lease = p_lease and e.status not in ('succeeded', 'failed', 'ignored');
    return exists (select from webhook_events where id = p_id and lease = p_lease and status = 'succeeded');
  elsif v_order_key is not null then
    -- The lock of the object is held until the effect commits. Until then no other event of this object is claimed, even if
    -- the lease expires.
    perform pgonce_pull_next_webhook(v_order_key);
  end if;
  return true;
end $$;
comment on function complete_webhook(uuid, uuid) is
  'pgonce: marks the event as handled. Call it inside the transaction that holds the effect: they commit together. false = the '
  'event is no longer yours: roll back. A repeated call returns true again, so a lost answer does no harm.';

create or replace function fail_webhook(
  p_id uuid, p_lease uuid, p_error_message text, p_max_attempts integer default 12, p_worker text default null,
  p_took interval default null)
returns boolean
language plpgsql set search_path from current set enable_seqscan = off set lock_timeout = '2s' as $$
declare
  v webhook_events;
  v_refusal text := 'a trigger leaves it as it is';
begin
  begin
    update webhook_events
    set status = 'failed', processed_at = clock_timestamp(), error_message = p_error_message, filler = null,
        -- A receiver has answered 200 for a queued event, so Stripe will not send it again. A worker retries it instead, after
        -- 10 s, 20 s, 40 s ... at most 6 h. Each delay varies by a fifth, so that a thousand failures are not all retried at
        -- once.
        next_attempt_at = case when queued and attempts < p_max_attempts then
          clock_timestamp() + least(interval '10 seconds' * 2 ^ least(attempts - 1, 20), interval '6 hours') * (0.8 + random() * 0.4) end
    where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored')
    returning * into v;
    set constraints all immediate;
  exception when others then
    if not pgonce_is_refusal(sqlstate) then raise; end if;
    v := null;
    v_refusal := sqlerrm;
  end;
  if v.id is null then
    -- The event stays claimed until its lease runs out. Why the handler has failed must not be lost.
    perform pgonce_keep_refusal(e.id, e.attempts, format(E'%s\nthe database refuses to have this failure written: %s', p_error_message, v_refusal))
    from webhook_events e where e.id = p_id and e.lease = p_lease and e.status not in ('succeeded', 'failed', 'ignored');
    return exists (select from webhook_events where id = p_id and lease = p_lease and status = 'failed');
  end if;
  insert into pgonce_webhook_attempts (event_id, what, attempt, worker, began_at, error)
  values (v.id, 'failed', v.attempts, p_worker, clock_timestamp() - p_took, p_error_message);
  if v.next_attempt_at is null then  -- a dead letter does not block the later events of its object
    perform pgonce_pull_next_webhook(v.order_key);
  end if;
  return true;
end $$;
comment on function fail_webhook(uuid, uuid, text, integer, text, interval) is
  'pgonce: ends the attempt as failed. A queued event is tried again with backoff until p_max_attempts; after that it is a '
  'dead letter. Any other event is retried by Stripe''s next delivery. p_worker and p_took are kept in '
  'pgonce_webhook_attempts. false = the event is no longer yours, or a trigger or constraint of yours refuses to have it '
  'written; then pgonce_webhook_attempts has both errors. 55P03 = another transaction has held the event for 2 s.';

create or replace function ignore_webhook(p_id uuid, p_lease uuid, p_reason text, p_unhandled boolean default false) returns boolean
language plpgsql set search_path from current set enable_seqscan = off set lock_timeout = '2s' as $$
declare
  v_order_key text;
begin
  update webhook_events
  set status = 'ignored', processed_at = clock_timestamp(), error_message = null, ignored_reason = p_reason,
      next_attempt_at = null, filler = null, queued = queued or p_unhandled, lease = case when not p_unhandled then lease end
  where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored')
  returning order_key into v_order_key;
  if not found then
    perform pgonce_refuse_unwritten_webhook(e.stripe_event_id) from webhook_events e
    where e.id = p_id and e.lease = p_lease and e.status not in ('succeeded', 'failed', 'ignored');
    return exists (select from webhook_events where id = p_id and lease = p_lease and status = 'ignored');
  end if;
  perform pgonce_pull_next_webhook(v_order_key);
  return true;
end $$;
comment on function ignore_webhook(uuid, uuid, text, boolean) is
  'pgonce: ends the event as ignored, with the reason. false = the event is no longer yours. p_unhandled: you have no handler '
  'for its type, and the reason begins with "no handler": a worker that has one, or will have one within a day, handles it.';
