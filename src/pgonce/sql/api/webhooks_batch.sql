-- The mark is the first statement of a handler's transaction. It sets the event to succeeded, and commits with the handler's
-- effect or not at all.
--
-- States as in webhooks_claim.sql.
--
-- transitions
-- from      | verb                            | to        | because
-- heldq     | pgonce_mark_webhook             | succeeded | its holder is about to handle it, in this transaction
-- held      | pgonce_mark_webhook             | succeeded | a direct client may do so, too
-- expiredq  | pgonce_mark_webhook             | succeeded | nobody else has taken it
-- waiting   | pgonce_mark_webhook             | none      | nobody holds it
-- failed    | pgonce_mark_webhook             | none      | it has an outcome
-- succeeded | pgonce_mark_webhook             | none      | done: handle only what was marked in this transaction
-- heldq     | pgonce_complete_webhooks        | succeeded | as pgonce_mark_webhook, for a list
-- held      | pgonce_complete_webhooks        | succeeded | a direct client may do so, too
-- expiredq  | pgonce_complete_webhooks        | succeeded | nobody else has taken it
-- waiting   | pgonce_complete_webhooks        | none      | nobody holds it
-- failed    | pgonce_complete_webhooks        | none      | it has an outcome
-- succeeded | pgonce_complete_webhooks        | none      | done: handle only what is returned
-- succeeded | pgonce_fail_committed_webhook   | dead      | its handler sent COMMIT and did not end: a person decides
-- heldq     | pgonce_fail_committed_webhook   | none      | it was not committed: fail_webhook is for this case
-- failed    | pgonce_fail_committed_webhook   | none      | it has an outcome

create or replace function pgonce_mark_webhook(p_id uuid, p_lease uuid) returns text
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_order_key text;
  v_has_failed boolean;
begin
  -- "not in": see complete_webhook
  update webhook_events
  set status = 'succeeded', processed_at = clock_timestamp(), next_attempt_at = null, filler = null
  where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored')
  returning order_key, error_message is not null into v_order_key, v_has_failed;
  if not found then
    perform pgonce_refuse_unwritten_webhook(e.stripe_event_id) from webhook_events e
    where e.id = p_id and e.lease = p_lease and e.status not in ('succeeded', 'failed', 'ignored');
    return null;
  end if;
  -- A statement of its own, because PostgreSQL reads and prepares the condition of a trigger for each UPDATE that names this
  -- column. That is a tenth of the statement's time.
  if v_has_failed then
    update webhook_events set error_message = null where id = p_id;
  end if;
  if v_order_key is not null then
    perform pgonce_pull_next_webhook(v_order_key);
  end if;
  return pg_current_xact_id()::text;
end $$;
comment on function pgonce_mark_webhook(uuid, uuid) is
  'pgonce: marks the event as handled, before its handler runs, and returns the transaction''s id, to be compared before COMMIT. '
  'null = the event is no longer yours: roll back. Unlike complete_webhook it is null when it is repeated.';

-- The planner may use only the index, for each id, and makes one plan for all calls. Other plans were slower. A plan made
-- while the table was small is kept until the next ANALYZE, and reads the whole table for every batch after it has grown: in
-- a burst of 45,000 events onto an empty table a worker was 22 % slower. And planning a small batch at each call costs as
-- much as the batch: 25 % slower. The same holds for pgonce_claim_webhooks and pgonce_release_webhooks.
create or replace function pgonce_complete_webhooks(p_ids uuid[], p_leases uuid[]) returns setof uuid
language plpgsql set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  v_marked uuid[];
  v_keys text[];
begin
  with marked as (
    update webhook_events e
    set status = 'succeeded', processed_at = clock_timestamp(), error_message = null, next_attempt_at = null, filler = null
    from unnest(p_ids, p_leases) as mine (id, lease)
    where e.id = mine.id and e.lease = mine.lease and e.status not in ('succeeded', 'failed', 'ignored')
    returning e.id, e.order_key
  )
  select array_agg(m.id), array_agg(m.order_key) filter (where m.order_key is not null) into v_marked, v_keys from marked m;
  if coalesce(cardinality(v_marked), 0) < cardinality(p_ids) then
    perform pgonce_refuse_unwritten_webhook(e.stripe_event_id)
    from webhook_events e join unnest(p_ids, p_leases) as mine (id, lease) on e.id = mine.id and e.lease = mine.lease
    where e.status not in ('succeeded', 'failed', 'ignored');
  end if;
  perform pgonce_pull_next_webhook(k) from unnest(v_keys) as k;
  return query select unnest(v_marked);
end $$;
comment on function pgonce_complete_webhooks(uuid[], uuid[]) is
  'pgonce: complete_webhook for a list of events that share a transaction. Returns the ids that are still yours: handle only those.';

create or replace function pgonce_fail_committed_webhook(p_id uuid, p_lease uuid, p_error_message text) returns boolean
language sql set search_path from current set enable_seqscan = off set lock_timeout = '2s' as $$
  with failed as (
    update webhook_events set status = 'failed', processed_at = clock_timestamp(), error_message = p_error_message
    where id = p_id and lease = p_lease and status = 'succeeded' returning id, attempts),
  kept as (
    insert into pgonce_webhook_attempts (event_id, what, attempt, error) select id, 'failed', attempts, p_error_message from failed)
  select exists (select from failed)
$$;
comment on function pgonce_fail_committed_webhook(uuid, uuid, text) is
  'pgonce: makes a dead letter of an event whose handler sent COMMIT itself and then failed: the mark is committed with a part '
  'of the effect. It is not retried automatically. false = the event is not marked with this lease.';
