-- What a person does with events: replay them, and erase their content. A replay is a compare-and-set on the attempt that
-- the person has seen.
--
-- States as in webhooks_claim.sql.
--
-- transitions
-- from      | verb                   | to        | because
-- waiting   | pgonce_replay_webhook  | waiting   | true: it is due at once, also if its handler has asked for a later time
-- held      | pgonce_replay_webhook  | held      | false: it is being handled
-- heldq     | pgonce_replay_webhook  | heldq     | false: it is being handled
-- renewed   | pgonce_replay_webhook  | renewed   | false: it is being handled
-- expired   | pgonce_replay_webhook  | waiting   | its client died, and a person wants it handled
-- failed    | pgonce_replay_webhook  | waiting   | due at once, with all attempts available again
-- dead      | pgonce_replay_webhook  | waiting   | due at once, with all attempts available again
-- ignored   | pgonce_replay_webhook  | waiting   | a person overrides the handler
-- succeeded | pgonce_replay_webhook  | waiting   | a person wants its effect again
-- absent    | pgonce_replay_webhook  | PT404     | no such event: a wrong id is an error
-- waiting   | pgonce_replay_webhooks | waiting   | it has not ended: it will be handled anyway
-- heldq     | pgonce_replay_webhooks | heldq     | it is being handled
-- failed    | pgonce_replay_webhooks | waiting   | the attempt is the one that was seen
-- dead      | pgonce_replay_webhooks | waiting   | the attempt is the one that was seen
-- ignored   | pgonce_replay_webhooks | waiting   | the decision is the one that was seen
-- succeeded | pgonce_replay_webhooks | waiting   | the success is the one that was seen

-- An attempt is identified by its lease, which is new at every claim. "Failed after one attempt" is not enough: if the event
-- was replayed and has failed again in between, it is another failure than the one that was seen.
create or replace function pgonce_replay_webhooks(
  p_stripe_event_ids text[], p_statuses text[], p_leases uuid[], p_who text default null, p_why text default null,
  p_replay_id bigint default null)
returns setof text
language plpgsql set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  v_ids uuid[];
  v_attempts integer[];
begin
  with seen as (
    select distinct on (s.event) s.event, s.status, s.lease
    from unnest(p_stripe_event_ids, p_statuses, p_leases) as s (event, status, lease)),
  free as (  -- a locked event is being handled
    select e.id, e.attempts from webhook_events e join seen s on s.event = e.stripe_event_id
    where e.status = s.status and e.status <> 'processing' and e.lease is not distinct from s.lease
    order by e.id for update of e skip locked)
  select coalesce(array_agg(f.id), '{}'), coalesce(array_agg(f.attempts), '{}') into v_ids, v_attempts from free f;
  -- In a statement of its own: the one above would not see what was erased after its beginning and before its row lock.
  select coalesce(array_agg(f.id), '{}'), coalesce(array_agg(f.attempts), '{}') into v_ids, v_attempts
  from unnest(v_ids, v_attempts) as f (id, attempts)
  where not exists (select from pgonce_webhook_attempts a where a.event_id = f.id and a.what = 'erased');
  return query
    with queued as (select unnest(pgonce_change_webhooks(v_ids, 'queue')) as id),
    kept as (
      insert into pgonce_webhook_attempts (event_id, what, attempt, worker, error, replay_id)
      select q.id, 'replayed', v_attempts[array_position(v_ids, q.id)], p_who, p_why, p_replay_id from queued q)
    select e.stripe_event_id from webhook_events e join queued q using (id);
end $$;
comment on function pgonce_replay_webhooks(text[], text[], uuid[], text, text, bigint) is
  'pgonce: queues ended events again, with all attempts available again. Only events that still have the status and the lease '
  'that were seen are queued. Events that were handled, retried or replayed in the meantime, locked ones, those that a trigger '
  'or constraint of yours refuses, and those whose payload was erased, are left as they are. Returns the ids of the queued events. p_who, p_why and '
  'p_replay_id are kept in pgonce_webhook_attempts.';

create or replace function pgonce_replay_webhook(p_stripe_event_id text, p_who text default null, p_why text default null)
returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v webhook_events;
  v_began timestamptz := clock_timestamp();
  v_refusal text;
begin
  select * into v from webhook_events e where e.stripe_event_id = p_stripe_event_id;
  if not found then
    raise sqlstate 'PT404' using message = format('there is no event %s', p_stripe_event_id);
  elsif v.status <> 'processing' then
    if exists (select from pgonce_replay_webhooks(array[v.stripe_event_id], array[v.status], array[v.lease], p_who, p_why)) then
      return true;
    end if;
    select a.error into v_refusal from pgonce_webhook_leases l join pgonce_webhook_attempts a using (event_id)
    where l.event_id = v.id and l.expires_at > v_began + interval '5 minutes' and a.what = 'failed'  -- left out by this call
    order by a.id desc limit 1;
    if found then
      raise sqlstate 'PT503' using message = split_part(v_refusal, E'\n', 1);
    end if;
    return false;
  elsif v.queued and v.lease is null then
    update webhook_events e set next_attempt_at = clock_timestamp()
    where e.id = (
      select o.id from webhook_events o
      where o.id = v.id and o.status = 'processing' and o.lease is null and o.next_attempt_at > clock_timestamp()
      for update skip locked);
    return true;
  end if;
  update webhook_events e
  set queued = true, lease = null, lease_expires_at = null, attempts = 0, next_attempt_at = clock_timestamp()
  where e.id = (
    select o.id from webhook_events o
    where o.id = v.id and o.status = 'processing' and o.lease = v.lease and o.lease_expires_at <= clock_timestamp()
      and not pgonce_is_lease_renewed(o.id, o.lease)
    for update skip locked);
  return found;
end $$;
comment on function pgonce_replay_webhook(text, text, text) is
  'pgonce: queues an event again, whatever its outcome, with all attempts available again. false = it is being handled now, or its payload was erased. PT503 = a '
  'trigger or constraint of yours refuses to have it written.';

create or replace function pgonce_erase_webhooks(
  p_customer_id text, p_account text default null, p_who text default null, p_dry_run boolean default false, out erased integer,
  out kept integer)
language plpgsql set search_path from current as $$
begin
  if coalesce(p_customer_id, '') = '' then
    raise sqlstate '22023' using message = 'the customer must not be empty';
  elsif length(p_customer_id) > 255 then  -- the column has the first 255 characters, which another customer may share
    raise sqlstate '22023' using message = 'the customer must not be longer than 255 characters';
  end if;
  -- an event that has not been handled yet needs its payload
  select count(*) filter (where status in ('succeeded', 'ignored') or next_attempt_at is null and status = 'failed'), count(*)
  into erased, kept
  from webhook_events where customer_id = p_customer_id and (p_account is null or account = p_account);
  if p_dry_run then
    kept := kept - erased;
    return;
  end if;
  with ended as (
    select e.id from webhook_events e
    where e.customer_id = p_customer_id and (p_account is null or e.account = p_account)
      and (e.status in ('succeeded', 'ignored') or e.next_attempt_at is null and e.status = 'failed')
    order by e.id for update skip locked),
  gone as (
    update webhook_events e
    set payload = jsonb_strip_nulls(jsonb_build_object('id', e.stripe_event_id, 'type', e.event_type, 'object', 'event', 'erased', true,
                                                       'snapshot_event', e.snapshot_event)),  -- by which its twin knows it
        raw = null, error_message = null, failure = null, order_key = null,
        -- a redelivery would retry a dead letter, and a new handler take an ignored event back: both without the payload
        status = case e.status when 'failed' then 'ignored' else e.status end,
        ignored_reason = case when e.status <> 'succeeded' then 'erased' end,
        processed_at = coalesce(e.processed_at, clock_timestamp())
    from ended where e.id = ended.id returning e.id, e.stripe_event_id, e.attempts),
  alerts as (  -- their text quotes the error of one event, or of the newest three
    update pgonce_alerts a
    set message = format('%s %s: the text was erased with the data of an event', a.kind, a.subject), detail = a.detail - 'examples'
    from gone where a.kind in ('dead_webhook', 'webhook_failed')
      and (a.detail ->> 'stripe_event_id' = gone.stripe_event_id
           or a.detail -> 'examples' @> jsonb_build_array(jsonb_build_object('stripe_event_id', gone.stripe_event_id)))),
  traces as (
    update pgonce_webhook_attempts a set error = null from gone where a.event_id = gone.id),
  kept_trace as (
    insert into pgonce_webhook_attempts (event_id, what, attempt, worker) select g.id, 'erased', g.attempts, p_who from gone g)
  select count(*), kept - count(*) into erased, kept from gone;
end $$;
comment on function pgonce_erase_webhooks(text, text, text, boolean) is
  'pgonce: removes payload, raw bytes, tracebacks, reasons and the texts of alerts of a customer''s events that have ended. id, type, status and times '
  'stay, so that a redelivery is still recognized. They are never handled again: a dead letter becomes ignored, and no replay takes '
  'one. kept: the number of events that are not handled yet, or are locked; they keep their payload. '
  'p_dry_run: only count.';
