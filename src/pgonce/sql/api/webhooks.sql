-- webhook_events: an inbox in which every event is handled exactly once.
--
-- A row's state is read from its columns:
--   waiting    processing, no lease: queued by a receiver, a worker will take it
--   held       processing, a lease that has not run out (or its row is locked: locked means live)
--   expired    processing, a lease that has run out
--   failed     the handler raised; succeeded and ignored are final
-- "held", "expired" and "failed" belong to a direct client here; the same states of a queued row carry a "q".
--
-- transitions
-- from      | verb                  | to        | because
-- absent    | insert_webhook_if_new | held      | first receipt: the caller owns it
-- waiting   | insert_webhook_if_new | waiting   | no row: a worker will surely do it, answer 200
-- held      | insert_webhook_if_new | PT409     | a 200 here loses the event if that client dies; Stripe retries
-- heldq     | insert_webhook_if_new | heldq     | no row: if that worker dies another takes it
-- expired   | insert_webhook_if_new | held      | its client died: takeover under a new lease
-- expiredq  | insert_webhook_if_new | heldq     | its worker died: whoever comes first may take it
-- failed    | insert_webhook_if_new | held      | a redelivery is the retry
-- failedq   | insert_webhook_if_new | heldq     | a redelivery is the retry, also of a dead letter; a worker watches over it
-- succeeded | insert_webhook_if_new | succeeded | no row: done
-- ignored   | insert_webhook_if_new | ignored   | no row: done
-- absent    | queue_webhooks        | waiting   | first receipt, free at once
-- waiting   | queue_webhooks        | waiting   | a duplicate changes nothing
-- held      | queue_webhooks        | heldq     | its client may die after our 200: from now on a worker watches over it
-- heldq     | queue_webhooks        | heldq     | a duplicate changes nothing
-- expired   | queue_webhooks        | waiting   | its client died: a worker takes it
-- expiredq  | queue_webhooks        | expiredq  | a worker takes expired leases anyway
-- failed    | queue_webhooks        | waiting   | a redelivery is the retry
-- failedq   | queue_webhooks        | waiting   | a redelivery is the retry at once, also of a dead letter
-- succeeded | queue_webhooks        | succeeded | done
-- ignored   | queue_webhooks        | ignored   | done
-- absent    | complete_webhook      | false     | nothing to complete
-- waiting   | complete_webhook      | false     | nobody holds it, so no lease fits
-- held      | complete_webhook      | succeeded | the lease fits: commits with the effect
-- heldq     | complete_webhook      | succeeded | the lease fits
-- expired   | complete_webhook      | succeeded | late, but nobody took it over
-- expiredq  | complete_webhook      | succeeded | late, but nobody took it over
-- failed    | complete_webhook      | false     | an attempt that has failed cannot succeed afterwards
-- failedq   | complete_webhook      | false     | an attempt that has failed cannot succeed afterwards
-- succeeded | complete_webhook      | succeeded | true: the same lease repeats a call whose answer was lost
-- ignored   | complete_webhook      | false     | it was decided otherwise
-- absent    | fail_webhook          | false     | nothing to fail
-- waiting   | fail_webhook          | false     | nobody holds it
-- held      | fail_webhook          | failed    | the lease fits
-- heldq     | fail_webhook          | failedq   | the lease fits
-- expired   | fail_webhook          | failed    | late, but nobody took it over
-- expiredq  | fail_webhook          | failedq   | late, but nobody took it over
-- failed    | fail_webhook          | failed    | true: the same lease repeats a call whose answer was lost
-- failedq   | fail_webhook          | failedq   | true: the same lease repeats a call whose answer was lost
-- succeeded | fail_webhook          | false     | its effect is committed
-- ignored   | fail_webhook          | false     | it was decided otherwise
-- absent    | ignore_webhook        | false     | nothing to ignore
-- waiting   | ignore_webhook        | false     | nobody holds it
-- held      | ignore_webhook        | ignored   | the lease fits
-- heldq     | ignore_webhook        | ignored   | the lease fits
-- expired   | ignore_webhook        | ignored   | late, but nobody took it over
-- expiredq  | ignore_webhook        | ignored   | late, but nobody took it over
-- failed    | ignore_webhook        | false     | an attempt that has failed has ended
-- failedq   | ignore_webhook        | false     | an attempt that has failed has ended
-- succeeded | ignore_webhook        | false     | its effect is committed
-- ignored   | ignore_webhook        | ignored   | true: the same lease repeats a call whose answer was lost

-- jsonb refuses \u0000, lone surrogates, numbers such as 1e400000 and nesting deeper than the stack. An insert that fails
-- makes Stripe retry for three days, then the event is lost: so what jsonb cannot hold gets a readable version beside raw.
create or replace function readable_webhook_payload(p_stripe_event_id text, p_event_type text, p_body text) returns jsonb
language plpgsql immutable set search_path from current as $$
declare
  -- a backslash that begins an escape: not itself escaped, behind any number of escaped pairs
  c_escape constant text := '(?<!\\)((?:\\\\)*)';
  c_high   constant text := '\\u[dD][89abAB][0-9a-fA-F]{2}';
  c_low    constant text := '\\u[dD][c-fC-F][0-9a-fA-F]{2}';
  v_body text := p_body;
  v_event json;
  v_id text := p_stripe_event_id;
  v_type text := p_event_type;
begin
  begin
    perform p_body::json;  -- looks at the syntax only: what fails here is not JSON at all
  exception
    when invalid_text_representation then
      raise sqlstate '22023' using message = 'the body is not JSON', hint = 'pass the request body exactly as it was received';
    when statement_too_complex then null;
  end;
  v_body := regexp_replace(v_body, c_escape || '\\u0000', '\1\\ufffd', 'g');
  v_body := regexp_replace(v_body, c_escape || c_high || '(?!' || c_low || ')', '\1\\ufffd', 'g');
  v_body := regexp_replace(v_body, c_escape || '(?<!' || c_high || ')' || c_low, '\1\\ufffd', 'g');
  return v_body::jsonb;
exception when numeric_value_out_of_range or statement_too_complex or program_limit_exceeded
            or untranslatable_character or invalid_text_representation then
  begin
    v_event := v_body::json;  -- as json a number may have any size; what is nested too deeply fails here, too
    v_id := coalesce(p_stripe_event_id, v_event ->> 'id');
    v_type := coalesce(p_event_type, v_event ->> 'type');
  exception when others then null;
  end;
  return jsonb_build_object('id', v_id, 'type', v_type, 'object', 'event',
                            'unreadable', 'jsonb cannot hold this body: it stands in the column raw');
end $$;
comment on function readable_webhook_payload(text, text, text) is
  'pgonce: a jsonb version of a body that the cast to jsonb refuses: characters that it cannot hold become U+FFFD, and where that '
  'does not help only id and type remain. Raises 22023 when the body is not JSON.';

create or replace function check_webhook_arguments(p_stripe_event_id text, p_event_type text, p_payload jsonb) returns void
language plpgsql immutable set search_path from current as $$
begin
  if coalesce(p_stripe_event_id, '') = '' or coalesce(p_event_type, '') = '' then
    raise sqlstate '22023' using message = 'the event id and the event type must not be empty';
  elsif length(p_stripe_event_id) > 255 then  -- Stripe's limit; an index entry over 2,704 bytes fails with a riddle
    raise sqlstate '22023' using message = 'the event id must not be longer than 255 characters';
  elsif jsonb_typeof(p_payload) is distinct from 'object' then
    raise sqlstate '22023' using message = 'the payload must be a JSON object: the whole Stripe event';
  end if;
end $$;
comment on function check_webhook_arguments(text, text, jsonb) is
  'pgonce: raises 22023 for an event id that is empty or longer than 255 characters, an empty type, a payload that is no object.';

create or replace function storable_webhook(
  p_stripe_event_id text, p_event_type text, p_body text, out payload jsonb, out raw bytea)
language plpgsql set search_path from current as $$
begin
  begin
    payload := p_body::jsonb;
  exception when others then
    payload := readable_webhook_payload(p_stripe_event_id, p_event_type, p_body);
    raw := convert_to(p_body, 'UTF8');
  end;
  perform check_webhook_arguments(p_stripe_event_id, p_event_type, payload);
end $$;
comment on function storable_webhook(text, text, text) is
  'pgonce: a body as jsonb, and as bytes, too, where jsonb cannot hold it exactly. Raises 22023 when it is not an event.';

create or replace function claim_webhook_payload(
  p_stripe_event_id text, p_event_type text, p_payload jsonb, p_raw bytea, p_lease_for interval)
returns table (outcome text, id uuid, lease uuid, attempts integer)
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  v webhook_events;
begin
  perform check_webhook_arguments(p_stripe_event_id, p_event_type, p_payload);
  if coalesce(p_lease_for, interval '0') <= interval '0' or p_lease_for > interval '100 years' then
    raise sqlstate '22023' using message = 'the lease must be longer than zero and at most 100 years';
  end if;
  for v_try in 1 .. 10 loop
    -- A plain read first: INSERT ... ON CONFLICT, also with DO NOTHING, waits for an uncommitted update of the row, and a
    -- handler that has marked its event keeps one open for as long as it works.
    select * into v from webhook_events e where e.stripe_event_id = p_stripe_event_id;
    if not found then
      return query
        insert into webhook_events as e (stripe_event_id, event_type, payload, raw, lease_expires_at)
        values (p_stripe_event_id, p_event_type, p_payload, p_raw, clock_timestamp() + p_lease_for)
        on conflict (stripe_event_id) do nothing
        returning 'claimed', e.id, e.lease, e.attempts;
      if found then return; end if;
      continue;  -- somebody was faster: look again, in a new statement
    elsif v.status = 'failed' or v.status = 'processing' and v.lease_expires_at <= clock_timestamp() then
      return query
        update webhook_events e
        set status = 'processing', lease = gen_random_uuid(), lease_expires_at = clock_timestamp() + p_lease_for,
            attempts = e.attempts + 1, processed_at = null,
            next_attempt_at = case when e.queued then coalesce(e.next_attempt_at, clock_timestamp()) end
        where e.id = (
          select c.id from webhook_events c
          where c.id = v.id and (c.status = 'failed' or c.status = 'processing' and c.lease_expires_at <= clock_timestamp())
          for update skip locked)
        returning 'claimed', e.id, e.lease, e.attempts;
      if found then return; end if;
      -- locked, so live; or taken over, ended, purged meanwhile
      select * into v from webhook_events e where e.stripe_event_id = p_stripe_event_id;
      continue when not found;
    end if;
    return query select
      case when v.status in ('succeeded', 'ignored') then 'done' when v.queued then 'queued' else 'busy' end,
      v.id, null::uuid, v.attempts;
    return;
  end loop;
  raise sqlstate '40001' using message = format('event %s comes and goes', p_stripe_event_id), hint = 'try again';
end $$;
comment on function claim_webhook_payload(text, text, jsonb, bytea, interval) is
  'pgonce: claim_webhook for a payload that is jsonb already.';

create or replace function claim_webhook(
  p_stripe_event_id text, p_event_type text, p_body text,
  p_raw bytea default null, p_lease_for interval default '5 minutes')
returns table (outcome text, id uuid, lease uuid, attempts integer)
language plpgsql set search_path from current as $$
declare
  v record;
begin
  select * into v from storable_webhook(p_stripe_event_id, p_event_type, p_body);
  return query select * from claim_webhook_payload(
    p_stripe_event_id, p_event_type, v.payload, coalesce(p_raw, v.raw), p_lease_for);
end $$;
comment on function claim_webhook(text, text, text, bytea, interval) is
  'pgonce: claims an event for the caller, from the body as received. outcome: claimed (yours: finish with complete_webhook, '
  'fail_webhook or ignore_webhook and this lease), done (handled before), queued (a worker will do it), busy (another client '
  'holds it: let Stripe retry). p_raw: the bytes as received, where p_body is not exactly them.';

create or replace function insert_webhook_if_new(p_stripe_event_id text, p_event_type text, p_payload jsonb)
returns table (id uuid)
language plpgsql set search_path from current as $$
declare
  v record;
begin
  select * into v from claim_webhook_payload(p_stripe_event_id, p_event_type, p_payload, null, interval '5 minutes');
  if v.outcome = 'busy' then
    raise sqlstate 'PT409' using message = format('event %s is being handled by another client', p_stripe_event_id),
      hint = 'answer with an error, so that Stripe delivers it again';
  elsif v.outcome = 'claimed' then
    return query select v.id;
  end if;
end $$;
comment on function insert_webhook_if_new(text, text, jsonb) is
  'pgonce: one row when the caller now owns the event (it is new, has failed, or its lease has run out); no row when it is done or '
  'queued for a worker: answer 200. PT409 (HTTP 409) while another client holds it: answer with an error, so that Stripe retries.';

create or replace function receive_webhook(p_body text, p_stripe_event_id text default null, p_event_type text default null)
returns table (id uuid)
language plpgsql set search_path from current as $$
declare
  v record;
  v_payload jsonb;
begin
  if p_stripe_event_id is null or p_event_type is null then
    begin
      v_payload := p_body::jsonb;
    exception when others then
      v_payload := readable_webhook_payload(p_stripe_event_id, p_event_type, p_body);
    end;
  end if;
  select * into v from claim_webhook(coalesce(p_stripe_event_id, v_payload ->> 'id'),
                                     coalesce(p_event_type, v_payload ->> 'type'), p_body);
  if v.outcome = 'busy' then
    raise sqlstate 'PT409' using message = 'this event is being handled by another client',
      hint = 'answer with an error, so that Stripe delivers it again';
  elsif v.outcome = 'claimed' then
    return query select v.id;
  end if;
end $$;
comment on function receive_webhook(text, text, text) is
  'pgonce: insert_webhook_if_new for the raw request body, also for one that jsonb cannot hold (over PostgREST such a JSON '
  'argument fails before any function is entered). Verify the signature first. The id and the type are read from the body '
  'unless they are given.';

create or replace function queue_webhooks(
  p_stripe_event_ids text[], p_event_types text[], p_bodies text[], p_raws bytea[] default null, p_order_keys text[] default null)
returns table (stripe_event_id text, outcome text)
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_new text[];
  v_ids text[] := '{}';
  v_types text[] := '{}';
  v_bodies text[] := '{}';
  v_raws bytea[] := '{}';
  v_keys text[] := '{}';
  r record;
  s record;
  v webhook_events;
begin
  begin
    -- Sorted by id: two batches that share events in another order deadlock otherwise.
    with inserted as (
      insert into webhook_events as e
        (stripe_event_id, event_type, payload, raw, order_key, received_at, lease, lease_expires_at, attempts, queued,
         next_attempt_at)
      -- received_at keeps the order of arrival within the batch
      select distinct on (b.id) b.id, b.type,
             -- what is not an event has no payload here, so the insert fails, and below each is looked at alone
             case when b.type <> '' and length(b.id) <= 255 and left(ltrim(b.body, E' \t\r\n'), 1) = '{' then b.body::jsonb end,
             b.raw, b.key, v_now + b.nr * interval '1 microsecond',
             null, null, 0, true, v_now
      from unnest(p_stripe_event_ids, p_event_types, p_bodies, p_raws, p_order_keys)
           with ordinality as b (id, type, body, raw, key, nr)
      -- what is there already is not tried: DO NOTHING waits for an uncommitted update, that is for a handler
      where not exists (select from webhook_events e where e.stripe_event_id = b.id)
      order by b.id, b.nr
      on conflict (stripe_event_id) do nothing
      returning e.stripe_event_id
    )
    select array_agg(stripe_event_id) into v_new from inserted;
  exception when data_exception or program_limit_exceeded or statement_too_complex or not_null_violation or check_violation then
    -- A bad event does not stop its neighbours: each is looked at alone, then what is left is queued, in the same order.
    for r in select * from unnest(p_stripe_event_ids, p_event_types, p_bodies, p_raws, p_order_keys)
                           with ordinality as b (id, type, body, raw, key, nr) order by b.nr loop
      begin
        select * into s from storable_webhook(r.id, r.type, r.body);
        v_ids    := v_ids    || r.id;
        v_types  := v_types  || r.type;
        v_bodies := v_bodies || case when s.raw is null then r.body else s.payload::text end;
        v_raws   := v_raws   || array[coalesce(r.raw, s.raw)];
        v_keys   := v_keys   || array[r.key];
      exception when invalid_parameter_value then
        return query select r.id, 'refused';
      end;
    end loop;
    if v_ids = p_stripe_event_ids and v_bodies = p_bodies then raise; end if;  -- it was none of the events' fault
    return query select * from queue_webhooks(v_ids, v_types, v_bodies, v_raws, v_keys);
    return;
  end;
  return query select unnest(v_new), 'queued';

  for r in select distinct b.id from unnest(p_stripe_event_ids) as b (id)
           where b.id <> all (coalesce(v_new, '{}')) loop
    select * into v from webhook_events e where e.stripe_event_id = r.id for update skip locked;
    if found and v.status in ('processing', 'failed') and (v.status = 'failed' or not v.queued) then
      -- failed, or a direct client's: from now on a worker watches over it, at once where nobody holds it
      update webhook_events e
      set status = 'processing', queued = true, processed_at = null,
          lease            = case when v.lease_expires_at > clock_timestamp() and v.status = 'processing' then e.lease end,
          lease_expires_at = case when v.lease_expires_at > clock_timestamp() and v.status = 'processing' then e.lease_expires_at end,
          next_attempt_at  = clock_timestamp()
      where e.id = v.id;
      return query select r.id, 'queued';
    elsif found then
      return query select r.id, case when v.status in ('succeeded', 'ignored') then 'done' else 'queued' end;
    else  -- locked, so live: of a direct client we cannot promise anything
      select * into v from webhook_events e where e.stripe_event_id = r.id;
      return query select r.id,
        case when v.status in ('succeeded', 'ignored') then 'done' when v.queued then 'queued' else 'busy' end;
    end if;
  end loop;
end $$;
comment on function queue_webhooks(text[], text[], text[], bytea[], text[]) is
  'pgonce: records a batch of events for the workers. A row per distinct event: queued or done (answer 200), busy (a direct client '
  'is in the middle of it: answer with an error, so that Stripe delivers it again), refused (not an event: answer 400). p_bodies: as received; p_raws: the bytes, where '
  'the text is not exactly them; p_order_keys: events with equal keys are handled one at a time, in the order of arrival.';

-- In these three the row is looked up by its id, and "processing" is written as "not in" the other states: with "=" a plan
-- made while the queue was empty takes idx_webhook_events_status, and every end in a burst of 100,000 reads all of that
-- (11 ms against 0.1 ms) until the next ANALYZE.
create or replace function complete_webhook(p_id uuid, p_lease uuid) returns boolean
language plpgsql set search_path from current as $$
declare
  v_order_key text;
begin
  update webhook_events
  set status = 'succeeded', processed_at = clock_timestamp(), error_message = null, next_attempt_at = null
  where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored')
  returning order_key into v_order_key;
  if not found then
    return exists (select from webhook_events where id = p_id and lease = p_lease and status = 'succeeded');
  elsif v_order_key is not null then
    -- held until the commit of the effect: no other event of this object is claimed meanwhile, even if the lease runs out
    perform pg_advisory_xact_lock(hashtextextended('pgonce order ' || v_order_key, 0));
    perform pull_next_webhook(v_order_key);
  end if;
  return true;
end $$;
comment on function complete_webhook(uuid, uuid) is
  'pgonce: marks the event as handled. Call it inside the transaction that holds the effect: they commit together. '
  'false = no longer yours: roll back. true also when repeated after a lost answer.';

create or replace function fail_webhook(p_id uuid, p_lease uuid, p_error_message text, p_max_attempts integer default 12)
returns boolean
language plpgsql set search_path from current as $$
declare
  v webhook_events;
begin
  update webhook_events
  set status = 'failed', processed_at = clock_timestamp(), error_message = p_error_message,
      -- A receiver has answered 200 for a queued event, so Stripe will not send it again: a worker retries it, after
      -- 10 s, 20 s, 40 s ... at most 6 h, a fifth more or less so that a thousand failures do not come back at once.
      next_attempt_at = case when queued and attempts < p_max_attempts then
        clock_timestamp() + least(interval '10 seconds' * 2 ^ least(attempts - 1, 20), interval '6 hours') * (0.8 + random() * 0.4) end
  where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored')
  returning * into v;
  if not found then
    return exists (select from webhook_events where id = p_id and lease = p_lease and status = 'failed');
  elsif v.next_attempt_at is null then  -- a dead letter no longer holds back its successors
    perform pull_next_webhook(v.order_key);
  end if;
  return true;
end $$;
comment on function fail_webhook(uuid, uuid, text, integer) is
  'pgonce: ends the attempt as failed. A queued event is tried again with backoff until p_max_attempts, then it is a dead letter; of '
  'any other the next delivery is the retry. false = no longer yours.';

create or replace function ignore_webhook(p_id uuid, p_lease uuid, p_reason text) returns boolean
language plpgsql set search_path from current as $$
declare
  v_order_key text;
begin
  update webhook_events
  set status = 'ignored', processed_at = clock_timestamp(), error_message = null, ignored_reason = p_reason,
      next_attempt_at = null
  where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored')
  returning order_key into v_order_key;
  if not found then
    return exists (select from webhook_events where id = p_id and lease = p_lease and status = 'ignored');
  end if;
  perform pull_next_webhook(v_order_key);
  return true;
end $$;
comment on function ignore_webhook(uuid, uuid, text) is
  'pgonce: ends the event as ignored, with the reason. false = no longer yours.';
