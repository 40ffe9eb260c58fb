-- The end of a batch: a worker marks all its events in one statement, handles each in a savepoint, and commits once.
--
-- States as in webhooks_claim.sql; "marked" is succeeded, but only for the transaction that has just said so.
--
-- transitions
-- from      | verb              | to        | because
-- heldq     | pgonce_complete_webhooks | succeeded | its holder is about to handle it, in this transaction
-- held      | pgonce_complete_webhooks | succeeded | a direct client may do so, too
-- expiredq  | pgonce_complete_webhooks | succeeded | nobody else has taken it
-- waiting   | pgonce_complete_webhooks | none      | nobody holds it
-- failed    | pgonce_complete_webhooks | none      | it has an outcome
-- succeeded | pgonce_complete_webhooks | none      | done: handle only what is returned
-- marked    | pgonce_unmark_webhooks   | heldq     | its handler failed, and its savepoint was rolled back
-- heldq     | pgonce_unmark_webhooks   | none      | it is not marked
-- succeeded | pgonce_unmark_webhooks   | none      | committed: what another transaction has marked stays marked

-- The planner is left one way, for each id its index, and goes it once. A plan that was made while the table was small, and kept
-- until the next ANALYZE, would read all of it for every batch when it has grown: in a burst of 45,000 events onto an empty table
-- a worker was 22 % slower. And a small batch would be planned anew each time, which costs as much as the batch: 25 % slower. The
-- same stands at pgonce_unmark_webhooks, pgonce_claim_webhooks and pgonce_release_webhooks.
create or replace function pgonce_complete_webhooks(p_ids uuid[], p_leases uuid[], p_sealed boolean default false) returns setof uuid
language plpgsql set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  v_marked uuid[];
  v_keys text[];
begin
  with marked as (
    update webhook_events e
    set status = 'succeeded', processed_at = clock_timestamp(), error_message = null, next_attempt_at = null,
        lease_expires_at = case when not p_sealed or e.id <> p_ids[1] then e.lease_expires_at end
    from unnest(p_ids, p_leases) as mine (id, lease)
    where e.id = mine.id and e.lease = mine.lease and e.status not in ('succeeded', 'failed', 'ignored')
    returning e.id, e.order_key
  )
  select array_agg(m.id), array_agg(m.order_key) filter (where m.order_key is not null) into v_marked, v_keys from marked m;
  perform pgonce_pull_next_webhook(k) from unnest(v_keys) as k;
  if p_sealed then
    perform set_config('pgonce.sealed', 'on', true);
    if p_ids[1] <> all (v_marked) then  -- the one with the seal is no longer ours
      update webhook_events e set lease_expires_at = null where e.id = v_marked[1];
    end if;
  end if;
  return query select unnest(v_marked);
end $$;
comment on function pgonce_complete_webhooks(uuid[], uuid[], boolean) is
  'pgonce: complete_webhook for a batch, in one statement. Returns the ids that are still yours: handle only those. p_sealed: the '
  'transaction cannot be committed until set_config(''pgonce.sealed'', ''off'', true).';

-- xmin is the transaction that wrote this version of the row, if the mark was made outside of every savepoint.
create or replace function pgonce_unmark_webhooks(p_ids uuid[], p_leases uuid[]) returns integer
language plpgsql set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  v_unmarked integer;
begin
  update webhook_events e
  set status = 'processing', processed_at = null, next_attempt_at = clock_timestamp(),
      lease_expires_at = clock_timestamp() + interval '30 seconds'
  from unnest(p_ids, p_leases) as mine (id, lease)
  where e.id = mine.id and e.lease = mine.lease and e.status = 'succeeded' and e.xmin = pg_current_xact_id()::xid;
  get diagnostics v_unmarked = row_count;
  return v_unmarked;
end $$;
comment on function pgonce_unmark_webhooks(uuid[], uuid[]) is
  'pgonce: takes back the marks that pgonce_complete_webhooks has made in this same transaction: the events are yours as before. Returns how many.';

-- The seal. The marks stand before the effects, so a handler that sends COMMIT would mark the rest of its batch for good, and
-- nobody would ever handle it. One row of a batch has no lease_expires_at; its deferred trigger refuses such a COMMIT.
create or replace function pgonce_refuse_sealed_webhooks() returns trigger
language plpgsql set search_path from current as $$
begin
  if current_setting('pgonce.sealed', true) = 'on' then
    raise sqlstate '2D000' using message = 'a handler must not end the transaction: leave COMMIT to pgonce',
      hint = 'SET CONSTRAINTS ALL IMMEDIATE does the same: name the constraints that you mean';
  end if;
  return null;
end $$;
comment on function pgonce_refuse_sealed_webhooks() is 'pgonce: refuses the COMMIT of a batch whose handlers have not all been called.';

do $$ begin  -- not "or replace": that one locks out every writer of the table at each migrate
  if not exists (select from pg_trigger where tgrelid = 'webhook_events'::regclass and tgname = 'pgonce_sealed') then
    create constraint trigger pgonce_sealed after update of lease_expires_at on webhook_events deferrable initially deferred
      for each row when (new.status = 'succeeded' and new.lease_expires_at is null) execute function pgonce_refuse_sealed_webhooks();
  end if;
end $$;
