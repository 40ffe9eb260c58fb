-- Claiming an event when it is received. The table of transitions is at the head of webhooks_inbox.sql.

-- A trigger of the user's that returns null makes an INSERT or UPDATE write no row, without an error. Read as "another client has
-- it", that was answered with 409 until Stripe gave up. So whatever misses a row that it must find ends here.
create or replace function pgonce_refuse_unwritten_webhook(p_stripe_event_id text) returns void
language plpgsql stable set search_path from current as $$
declare
  v_triggers text := (
    select string_agg(quote_ident(t.tgname), ', ' order by t.tgname) from pg_trigger t
    where t.tgrelid = 'webhook_events'::regclass and not t.tgisinternal
      and coalesce(obj_description(t.tgfoid, 'pg_proc'), '') not like 'pgonce: %');
begin
  raise sqlstate 'PT503' using
    message = format('webhook_events does not keep event %s as it was written: %s', p_stripe_event_id,
                     coalesce('look at the trigger ' || v_triggers, 'a policy hides it, or other clients delete it again and again')),
    hint = 'a trigger must return NEW, and leave id, stripe_event_id, status and lease as they are';
end $$;
comment on function pgonce_refuse_unwritten_webhook(text) is
  'pgonce: raises PT503 (HTTP 503) for an event that was written and is not there; names the triggers that may be the cause.';

create or replace function pgonce_claim_webhook_payload(
  p_stripe_event_id text, p_event_type text, p_payload jsonb, p_raw bytea, p_lease_for interval)
returns table (outcome text, id uuid, lease uuid, attempts integer)
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
  v webhook_events;
  v_is_unhandled boolean;
begin
  perform pgonce_check_webhook_arguments(p_stripe_event_id, p_event_type, p_payload);
  if coalesce(p_lease_for, interval '0') <= interval '0' or p_lease_for > interval '100 years' then
    raise sqlstate '22023' using message = 'the lease must be longer than zero and at most 100 years';
  end if;
  for v_try in 1 .. 10 loop
    -- A plain read comes first. INSERT ... ON CONFLICT, also with DO NOTHING, waits for an uncommitted update of the row. A
    -- handler that has marked its event keeps such an update open until it ends.
    select * into v from webhook_events e where e.stripe_event_id = p_stripe_event_id;
    if not found then
      insert into webhook_events as e (stripe_event_id, event_type, payload, raw, lease_expires_at)
      values (p_stripe_event_id, p_event_type, p_payload, p_raw, clock_timestamp() + p_lease_for)
      on conflict (stripe_event_id) do nothing
      returning * into v;
      if found then
        exit when v.stripe_event_id <> p_stripe_event_id;  -- a trigger has changed it
        return query select 'claimed', v.id, v.lease, v.attempts;
        return;
      end if;
      continue;  -- another client inserted it first: read again, in a new statement
    elsif v.status <> 'succeeded' then
      -- Another app's receiver may have recorded it, or a route of it ignored it. The workers have no handler for its type, and
      -- whoever calls this has: it is the caller's alone from now on.
      v_is_unhandled := v.queued and (v.status = 'ignored' or pgonce_is_type_unhandled(v.event_type));
      return query
        update webhook_events e
        set status = 'processing', lease = gen_random_uuid(), lease_expires_at = clock_timestamp() + p_lease_for,
            attempts = e.attempts + 1, processed_at = null, ignored_reason = null, deliveries = e.deliveries + 1,
            queued = e.queued and not v_is_unhandled,
            next_attempt_at = case when e.queued and not v_is_unhandled then coalesce(e.next_attempt_at, clock_timestamp()) end
        where e.id = (
          select c.id from webhook_events c
          where c.id = v.id and (c.status = 'failed'
            or c.status = 'processing' and c.lease_expires_at <= clock_timestamp() and not pgonce_is_lease_renewed(c.id, c.lease)
            or v_is_unhandled and c.queued and c.lease is null
               and (c.status = 'processing' or c.status = 'ignored' and c.ignored_reason like 'no handler%'))
          for update skip locked)
        returning 'claimed', e.id, e.lease, e.attempts;
      if found then return; end if;
      -- it is held or ignored, or its row is locked; or it was taken over, ended or purged in the meantime
      select * into v from webhook_events e where e.stripe_event_id = p_stripe_event_id;
      continue when not found;
    end if;
    return query select
      case when v.status = 'succeeded' then 'done'
           when v.status = 'ignored' and (v.queued and v.lease is null and v.ignored_reason like 'no handler%') is not true
             then 'done'
           when v.queued and not v_is_unhandled then 'queued' else 'busy' end,
      v.id, null::uuid, v.attempts;
    return;
  end loop;
  perform pgonce_refuse_unwritten_webhook(p_stripe_event_id);
end $$;
comment on function pgonce_claim_webhook_payload(text, text, jsonb, bytea, interval) is
  'pgonce: claim_webhook for a payload that is already jsonb.';

create or replace function claim_webhook(
  p_stripe_event_id text, p_event_type text, p_body text,
  p_raw bytea default null, p_lease_for interval default '5 minutes')
returns table (outcome text, id uuid, lease uuid, attempts integer)
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v record;
begin
  select * into v from pgonce_storable_webhook(p_stripe_event_id, p_event_type, p_body);
  return query select * from pgonce_claim_webhook_payload(
    p_stripe_event_id, p_event_type, v.payload, coalesce(p_raw, v.raw), p_lease_for);
end $$;
comment on function claim_webhook(text, text, text, bytea, interval) is
  'pgonce: claims an event for the caller, from the body as received. outcome: claimed = yours: finish with complete_webhook, '
  'fail_webhook or ignore_webhook and this lease. done = it was handled before. queued = a worker will handle it. busy = '
  'another client holds it: let Stripe retry. p_raw: the bytes as received, if p_body is not exactly the same.';

create or replace function insert_webhook_if_new(p_stripe_event_id text, p_event_type text, p_payload jsonb)
returns table (id uuid)
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v record;
begin
  select * into v from pgonce_claim_webhook_payload(p_stripe_event_id, p_event_type, p_payload, null, interval '5 minutes');
  if v.outcome = 'busy' then
    raise sqlstate 'PT409' using message = format('event %s is being handled by another client', p_stripe_event_id),
      hint = 'answer with an error, so that Stripe delivers it again';
  elsif v.outcome = 'claimed' then
    return query select v.id;
  end if;
end $$;
comment on function insert_webhook_if_new(text, text, jsonb) is
  'pgonce: returns one row if the caller now owns the event: it is new, it has failed, or its lease has expired. Returns no '
  'row if the event is done or queued for a worker: answer 200. PT409 (HTTP 409) while another client holds it: answer with an '
  'error, so that Stripe retries.';

create or replace function receive_webhook(p_body text, p_stripe_event_id text default null, p_event_type text default null)
returns table (id uuid)
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v record;
  v_payload jsonb;
begin
  if p_stripe_event_id is null or p_event_type is null then
    begin
      v_payload := p_body::jsonb;
    exception when others then
      v_payload := pgonce_readable_webhook_payload(p_stripe_event_id, p_event_type, p_body);
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
  'pgonce: insert_webhook_if_new for the raw request body. It also accepts a body that jsonb cannot hold; over PostgREST such '
  'a JSON argument fails before the function is called. Verify the signature first. The id and the type are read from the body '
  'unless they are given.';
