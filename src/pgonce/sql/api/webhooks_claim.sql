-- The queue side of webhook_events: workers claim what receivers have recorded.
--
-- States as in webhooks_inbox.sql, which also has pgonce_queue_webhooks and the end of an attempt. Here "failed" is due
-- again, "dead" has no next attempt, "unhandled" is ignored because no process has a handler, and "renewed" is expiredq with
-- a valid row in pgonce_webhook_leases.
--
-- transitions
-- from      | verb                | to        | because
-- waiting   | pgonce_claim_webhooks      | heldq     | it is due
-- heldq     | pgonce_claim_webhooks      | heldq     | another worker has it
-- expiredq  | pgonce_claim_webhooks      | heldq     | its worker died: it is claimed alone, because it may have caused the death
-- exhausted | pgonce_claim_webhooks      | dead      | its workers died p_max_attempts times
-- failed    | pgonce_claim_webhooks      | heldq     | the backoff is over
-- dead      | pgonce_claim_webhooks      | dead      | it waits for a person
-- held      | pgonce_claim_webhooks      | held      | a direct client holds it
-- expired   | pgonce_claim_webhooks      | expired   | a direct client's: only pgonce_adopt_webhooks queues it
-- succeeded | pgonce_claim_webhooks      | succeeded | done
-- unhandled | pgonce_claim_webhooks      | unhandled | done, until a worker has a handler for it
-- heldq     | pgonce_release_webhooks    | waiting   | released before its handler ran: no attempt is counted
-- waiting   | pgonce_release_webhooks    | waiting   | nobody holds it
-- succeeded | pgonce_release_webhooks    | succeeded | done
-- waiting   | pgonce_ignore_unhandled_webhooks | unhandled | no process seen lately handles its type
-- heldq     | pgonce_ignore_unhandled_webhooks | heldq     | a worker holds it
-- expiredq  | pgonce_ignore_unhandled_webhooks | unhandled | its holder died, and no process seen lately handles its type
-- renewed   | pgonce_ignore_unhandled_webhooks | renewed   | its holder lives
-- held      | pgonce_ignore_unhandled_webhooks | held      | a direct client holds it
-- failed    | pgonce_ignore_unhandled_webhooks | failed    | it has had a handler, which may return
-- succeeded | pgonce_ignore_unhandled_webhooks | succeeded | done
-- heldq     | pgonce_postpone_webhook    | waiting   | its handler asks for a later time: no attempt is counted
-- held      | pgonce_postpone_webhook    | failed    | a direct client's: the next delivery is the retry
-- waiting   | pgonce_postpone_webhook    | waiting   | nobody holds it
-- succeeded | pgonce_postpone_webhook    | succeeded | done
-- expired   | pgonce_adopt_webhooks      | waiting   | its client died: a worker handles it
-- held      | pgonce_adopt_webhooks      | held      | its client's lease is valid
-- waiting   | pgonce_adopt_webhooks      | waiting   | queued already
-- failed    | pgonce_adopt_webhooks      | failed    | it has an outcome
-- unhandled | pgonce_take_back_webhooks  | waiting   | a worker has a handler for it now
-- ignored   | pgonce_take_back_webhooks  | ignored   | a handler has ignored it
-- succeeded | pgonce_take_back_webhooks  | succeeded | done
-- heldq     | pgonce_renew_webhook       | heldq     | true: its handler is running
-- expiredq  | pgonce_renew_webhook       | renewed   | true: late, but nobody took it over
-- renewed   | pgonce_renew_webhook       | renewed   | true: its handler is still running
-- renewed   | pgonce_claim_webhooks      | renewed   | its worker has renewed the lease
-- waiting   | pgonce_renew_webhook       | waiting   | false: nobody holds it
-- failed    | pgonce_renew_webhook       | failed    | false: it has an outcome
-- succeeded | pgonce_renew_webhook       | succeeded | false: done

create or replace function pgonce_is_lease_renewed(p_id uuid, p_lease uuid) returns boolean
language sql stable set search_path from current as $$
  select exists (select from pgonce_webhook_leases l where l.event_id = p_id and l.lease = p_lease and l.expires_at > clock_timestamp())
$$;
comment on function pgonce_is_lease_renewed(uuid, uuid) is
  'pgonce: whether a claim with an expired lease was renewed by its holder.';

-- One claim at a time. If several run at once, each reads the same rows, and locks those that another has just claimed until it
-- commits: PostgreSQL locks the newest version of a row before it finds that the row no longer matches. Marks of the claimed
-- events then wait for these locks. 32 workers that emptied a queue handled 291 events/s before there was this lock. Now they
-- handle 2,298 (python -m bench --quick webhooks).
--
-- The lock only saves time: a claim is correct without it. So a claim whose client does not commit delays the others by 2 s, but
-- does not stop them. Workers with handlers for other types have a lock of their own.
create or replace function pgonce_wait_for_other_claims(p_types text) returns void
language plpgsql set search_path from current set lock_timeout = '2s' as $$
declare
  v_lock bigint := hashtextextended('pgonce claim ' || current_schema || ' ' || coalesce(p_types, ''), 0);
begin
  if not pg_try_advisory_xact_lock(v_lock) then
    perform pg_advisory_xact_lock(v_lock);
  end if;
exception when lock_not_available then null;
end $$;
comment on function pgonce_wait_for_other_claims(text) is 'pgonce: waits at most 2 s for other claims of events of these types.';

create or replace function pgonce_claim_webhooks(
  p_limit integer default 100, p_lease_for interval default '30 seconds', p_max_attempts integer default 12,
  p_types text default null, p_other_types text default null, p_since timestamptz default null, p_only uuid default null)
returns table (id uuid, stripe_event_id text, event_type text, payload text, raw bytea, lease uuid, attempts integer,
               order_key text, due timestamptz)
-- Sorting is disabled, so that the planner uses the index of due times. By its estimate (one row of the 4,000 that wait, in a
-- table of 5,000,000) it would otherwise sort all waiting rows at each claim: 1.5 ms of 2.
language plpgsql set search_path from current set enable_sort = off
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_now timestamptz;  -- a variable: a volatile function cannot limit the index scan
  v_lease uuid := gen_random_uuid();  -- one for the batch: id and lease together identify a claim
  v_ids uuid[] := '{}';
  v_claimed integer;
  v_wait interval;
  r record;
begin
  if p_limit < 1 or p_lease_for <= interval '0' then
    raise sqlstate '22023' using message = 'the limit and the lease must be more than zero';
  end if;
  perform pgonce_wait_for_other_claims(p_types);
  v_now := clock_timestamp();
  for r in
    select e.id, e.lease, e.order_key, e.received_at, e.attempts, e.status = 'processing' and e.lease is not null as suspect
    from webhook_events e
    where e.next_attempt_at <= v_now and e.next_attempt_at >= coalesce(p_since, '-infinity')
      and (e.status = 'failed' or e.status = 'processing' and coalesce(e.lease_expires_at, '-infinity') <= v_now)
      and (p_types is null or e.event_type ~ p_types) and (p_other_types is null or e.event_type !~ p_other_types)
      and (p_only is null or e.id = p_only)
    order by e.next_attempt_at
    limit p_limit for update skip locked
  loop
    -- An event is suspect if its last claim ended without an outcome: the process died. It is claimed alone. Otherwise an
    -- event that kills its process would use up the attempts of the other events in the batch.
    continue when r.suspect and pgonce_is_lease_renewed(r.id, r.lease);
    exit when r.suspect and cardinality(v_ids) > 0;
    if r.suspect then
      insert into pgonce_webhook_attempts (event_id, what, attempt, error)
      values (r.id, 'lost', r.attempts, 'no outcome: the process died, or lost its connection');
    end if;
    if r.suspect and r.attempts >= p_max_attempts then
      update webhook_events e
      set status = 'failed', processed_at = v_now, next_attempt_at = null,
          error_message = format('the process died %s times while it handled this event', e.attempts)
      where e.id = r.id;  -- later events of its object are at most postponed, and become due without a pull
      continue;
    end if;
    v_wait := pgonce_webhook_must_wait(r.id, r.order_key, r.received_at);
    if v_wait is not null then
      -- Postponed, not skipped: otherwise each claim would read 100,000 events of one object again.
      update webhook_events e set next_attempt_at = v_now + v_wait where e.id = r.id;
      continue;
    end if;
    v_ids := v_ids || r.id;
    exit when r.suspect;
  end loop;
  return query
    -- due times stay as they are, and no other indexed column changes: the update is HOT
    update webhook_events e
    set status = 'processing', lease = v_lease, lease_expires_at = clock_timestamp() + p_lease_for,
        attempts = e.attempts + 1, processed_at = null, filler = null
    where e.id = any (v_ids)
    returning e.id, e.stripe_event_id, e.event_type, e.payload::text, e.raw, e.lease, e.attempts, e.order_key,
              e.next_attempt_at;
  get diagnostics v_claimed = row_count;
  if v_claimed = 0 and v_ids <> '{}' then  -- all are locked, so nobody else has changed them
    perform pgonce_refuse_unwritten_webhook((select e.stripe_event_id from webhook_events e where e.id = v_ids[1]));
  end if;
end $$;
comment on function pgonce_claim_webhooks(integer, interval, integer, text, text, timestamptz, uuid) is
  'pgonce: claims up to p_limit due events for a worker; each is returned with its lease. p_types, p_other_types: regular '
  'expressions that the type must and must not match. p_since: only events due since then, which is fast under an old '
  'snapshot. Call it without p_since from time to time. p_only: only this event. An event whose process has died '
  'p_max_attempts times becomes a dead letter.';

-- How long an event must wait for another one of its object; null = not at all. It waits while an earlier one is not finished
-- (one that keeps failing blocks the later ones for an hour), and while somebody holds any other one.
--
-- The lock of the object is held from this check to the commit of the claim. It is also held while a handler runs, and while
-- the next event is made due (pgonce_pull_next_webhook). So of two concurrent claims one sees the other. An end of an attempt
-- that makes the next event due waits until a claim has committed its postponement; otherwise it would miss that event. A
-- claim only tries the lock: it never waits. If the lock is taken, the claim postpones the event for a second, because the
-- other session may have finished its pull already.
create or replace function pgonce_webhook_must_wait(p_id uuid, p_order_key text, p_received_at timestamptz) returns interval
language plpgsql set search_path from current as $$
begin
  if p_order_key is null then
    return null;
  elsif not pg_try_advisory_xact_lock(hashtextextended('pgonce order ' || current_schema() || chr(10) || p_order_key, 0)) then
    return interval '1 second';
  elsif exists (
      select from webhook_events e
      where e.order_key = p_order_key and e.next_attempt_at is not null and e.id <> p_id
        and e.status not in ('succeeded', 'ignored')  -- a direct client's UPDATE of the status leaves next_attempt_at as it is
        and ((e.received_at, e.id) < (p_received_at, p_id)
               and (e.status = 'processing' or e.received_at > clock_timestamp() - interval '1 hour')
             or e.status = 'processing' and e.lease is not null
               and (e.lease_expires_at > clock_timestamp() or pgonce_is_lease_renewed(e.id, e.lease)))) then
    return interval '30 seconds';
  end if;
  return null;
end $$;
comment on function pgonce_webhook_must_wait(uuid, text, timestamptz) is
  'pgonce: how long an ordered event must wait for another one of its object; null = not at all.';

create or replace function pgonce_pull_next_webhook(p_order_key text) returns void
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_next record;
  v_checks boolean;
begin
  if p_order_key is null then return; end if;
  perform pg_advisory_xact_lock(hashtextextended('pgonce order ' || current_schema() || chr(10) || p_order_key, 0));
  select n.id, n.next_attempt_at into v_next from webhook_events n
  where n.order_key = p_order_key and n.next_attempt_at is not null and n.status = 'processing' and n.lease is null
  order by n.received_at, n.id limit 1;
  -- what waits for its object has been postponed by at most 30 s; what waits longer, its handler has postponed
  if v_next.next_attempt_at > clock_timestamp() and v_next.next_attempt_at <= clock_timestamp() + interval '30 seconds' then
    v_checks := pgonce_deferred_refusal() is null;
    begin
      update webhook_events e set next_attempt_at = clock_timestamp()
      where e.next_attempt_at > clock_timestamp() and e.status = 'processing' and e.id = v_next.id;
      if v_checks and pgonce_deferred_refusal() is not null then raise 'refused'; end if;
    exception when others then  -- a trigger refuses to have it written: that must not fail this event, and it becomes due by itself
      if not pgonce_is_refusal(sqlstate) then raise; end if;
    end;
  end if;
end $$;
comment on function pgonce_pull_next_webhook(text) is 'pgonce: makes the next waiting event of an object due now; null does nothing.';

create or replace function pgonce_release_webhooks(p_ids uuid[], p_leases uuid[]) returns integer
language plpgsql set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
  return cardinality(pgonce_change_webhooks(array(
    select e.id from webhook_events e join unnest(p_ids, p_leases) as mine (id, lease) on e.id = mine.id and e.lease = mine.lease
    where e.status not in ('succeeded', 'failed', 'ignored') and e.queued for update of e), 'release'));
end $$;
comment on function pgonce_release_webhooks(uuid[], uuid[]) is
  'pgonce: releases claimed events whose handler has not run; no attempt is counted. Returns the number released.';

create or replace function pgonce_postpone_webhook(p_id uuid, p_lease uuid, p_delay interval) returns boolean
language plpgsql set search_path from current set enable_seqscan = off set lock_timeout = '2s' as $$
begin
  if p_delay < interval '0' or p_delay > interval '31 days' then
    raise sqlstate '22023' using message = 'the delay must be from zero to 31 days';
  end if;
  update webhook_events
  set status = case when queued then 'processing' else 'failed' end, lease = null, lease_expires_at = null,
      attempts = greatest(attempts - 1, 0), next_attempt_at = case when queued then clock_timestamp() + p_delay end,
      error_message = case when not queued then 'the handler asked for a retry' end
  where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored');
  if found then return true; end if;
  perform pgonce_refuse_unwritten_webhook(e.stripe_event_id) from webhook_events e
  where e.id = p_id and e.lease = p_lease and e.status not in ('succeeded', 'failed', 'ignored');
  return false;
end $$;
comment on function pgonce_postpone_webhook(uuid, uuid, interval) is
  'pgonce: releases a claimed event, to be handled after p_delay; no attempt is counted. An event that is not queued for the '
  'workers is retried by Stripe''s next delivery. false = the event is no longer yours.';

create or replace function pgonce_glob_expression(p_pattern text) returns text
language sql immutable parallel safe set search_path from current as $$
  select '^' || replace(replace(replace(
           -- a bracket that none closes stands for itself: as a regular expression it is an error
           regexp_replace(regexp_replace(p_pattern, E'([.^$|()+{}\\\\])', E'\\\\\\1', 'g'), E'\\[(?![^]]+])', E'\\\\[', 'g'),
           '[!', '[^'), '*', '.*'), '?', '.') || '$'
$$;
comment on function pgonce_glob_expression(text) is 'pgonce: a glob of event types, as an app registers it, as a regular expression.';

-- Several apps may share a database, each with handlers for its own types, and a process that is being replaced starts again
-- soon. So a process counts for an hour after its last heartbeat.
create or replace function pgonce_handled_types() returns text
language sql stable set search_path from current as $$
  select string_agg(distinct pgonce_glob_expression(g.pattern), '|')
  from pgonce_processes p cross join unnest(p.handlers) as g (pattern)
  where p.does = 'events' and p.last_seen_at > clock_timestamp() - interval '1 hour'
$$;
comment on function pgonce_handled_types() is
  'pgonce: the types that a process seen within the last hour has a handler for, as a regular expression; null = none.';

create or replace function pgonce_ignore_unhandled_webhooks(p_limit integer default 1000, p_every interval default null) returns integer
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_now timestamptz := clock_timestamp();  -- a variable: a volatile function cannot limit the index scan
  v_handled text;
  v_ids uuid[];
begin
  -- It reads the events that wait. If each of 32 workers did so while 10,000 wait, that would take a quarter of the server.
  if p_every is not null then
    if exists (select from pgonce_upkeep where what = 'unhandled webhooks' and done_at > v_now - p_every
                 and done_at < v_now + interval '1 minute') then return 0; end if;  -- later: the clock was set back
    insert into pgonce_upkeep as u (what, done_at) values ('unhandled webhooks', v_now)
    on conflict (what) do update set done_at = excluded.done_at
      where u.done_at <= excluded.done_at - p_every or u.done_at >= excluded.done_at + interval '1 minute';
    if not found then return 0; end if;
  end if;
  v_handled := pgonce_handled_types();
  v_ids := array(
    with due as (  -- with a limit: thousands of others may wait for a process that is not running
      select e.id, e.event_type from webhook_events e
      where e.next_attempt_at <= v_now and e.status = 'processing'
        -- a receiver hands what it records to its own worker, with a lease, before anybody knows of a handler
        and (e.lease is null or e.lease_expires_at <= v_now and not pgonce_is_lease_renewed(e.id, e.lease))
      order by e.next_attempt_at limit p_limit * 10)
    select e.id from webhook_events e join due d on d.id = e.id
    where (v_handled is null or d.event_type !~ v_handled) and e.status = 'processing' and e.queued
      and (e.lease is null or e.lease_expires_at <= v_now) and not pgonce_is_webhook_left_out(e.id)
    limit p_limit for update of e skip locked);
  v_ids := pgonce_change_webhooks(v_ids, 'ignore');
  perform pgonce_pull_next_webhook(e.order_key) from webhook_events e where e.id = any (v_ids) and e.order_key is not null;
  return cardinality(v_ids);
end $$;
comment on function pgonce_ignore_unhandled_webhooks(integer, interval) is
  'pgonce: ends waiting events as ignored if no process seen within the last hour has a handler for their type. Returns how '
  'many. With p_every it does nothing if a call with p_every has done this within that time.';

create or replace function pgonce_order_webhook(p_id uuid, p_lease uuid, p_order_key text) returns boolean
language sql set search_path from current set enable_seqscan = off as $$
  with ordered as (
    update webhook_events set order_key = p_order_key, lease = null, lease_expires_at = null, attempts = attempts - 1
    where id = p_id and lease = p_lease and status not in ('succeeded', 'failed', 'ignored') and order_key is null returning id)
  select exists (select from ordered)
$$;
comment on function pgonce_order_webhook(uuid, uuid, text) is
  'pgonce: releases a claimed event with the key of its object. Used when the receiver did not set the key although the '
  'handlers of the event need the order.';

create or replace function pgonce_coalesce_webhooks(p_id uuid, p_order_key text, p_types text, p_other_types text default null)
returns integer
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_ignored uuid[];
begin
  v_ignored := pgonce_change_webhooks(array(
    select o.id from webhook_events o
    where o.order_key = p_order_key and o.next_attempt_at is not null and o.id <> p_id and o.event_type ~ p_types
      and (p_other_types is null or o.event_type !~ p_other_types) and (o.status = 'failed' or o.lease is null)
    for update skip locked), 'ignore', format('coalesced into %s', (select stripe_event_id from webhook_events where id = p_id)), false);
  if v_ignored <> '{}' then  -- the mark of p_id has pulled the next event forward, which may be one of these
    perform pgonce_pull_next_webhook(p_order_key);
  end if;
  return cardinality(v_ignored);
end $$;
comment on function pgonce_coalesce_webhooks(uuid, text, text, text) is
  'pgonce: ends the other waiting events of this object as ignored, because the handler of this event will fetch the current '
  'state. p_types, p_other_types: regular expressions that their type must and must not match.';

create or replace function pgonce_adopt_webhooks(p_limit integer default 1000) returns integer
language plpgsql set search_path from current as $$
begin
  return cardinality(pgonce_change_webhooks(array(
    select o.id from webhook_events o
    where o.status = 'processing' and not o.queued and o.lease_expires_at <= clock_timestamp() and not pgonce_is_webhook_left_out(o.id)
    limit p_limit for update skip locked), 'queue'));
end $$;
comment on function pgonce_adopt_webhooks(integer) is
  'pgonce: queues events of direct clients whose lease has run out, so that a worker handles them. Returns how many.';

create or replace function pgonce_take_back_webhooks(p_types text, p_limit integer default 1000) returns integer
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_since timestamptz := clock_timestamp() - interval '1 day';  -- a variable: see pgonce_claim_webhooks
begin
  return cardinality(pgonce_change_webhooks(array(
    select i.id from webhook_events i
    where i.status = 'ignored' and i.queued and i.ignored_reason like 'no handler%' and i.received_at > v_since
      and i.lease is null  -- a handler that has ignored one may have said the same
      and i.event_type ~ p_types and not pgonce_is_webhook_left_out(i.id)
    order by i.received_at limit p_limit for update skip locked), 'queue'));
end $$;
comment on function pgonce_take_back_webhooks(text, integer) is
  'pgonce: queues up to p_limit of the last day''s events that were ignored because no process had a handler, and whose type '
  'matches p_types (a regular expression). A worker of an older release may have claimed them first. Returns how many.';

create or replace function pgonce_renew_webhook(p_id uuid, p_lease uuid, p_lease_for interval default '30 seconds') returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_before timestamptz := clock_timestamp() - interval '1 hour';  -- a variable: a volatile function cannot limit the index scan
begin
  if p_lease_for <= interval '0' or p_lease_for > interval '100 years' then
    raise sqlstate '22023' using message = 'the lease must be longer than zero and at most 100 years';
  end if;
  delete from pgonce_webhook_leases l where l.ctid = any (array(
    select o.ctid from pgonce_webhook_leases o where o.expires_at < v_before for update skip locked));
  if not exists (select from webhook_events where id = p_id and lease = p_lease and status = 'processing') then
    return false;
  end if;
  insert into pgonce_webhook_leases as l (event_id, lease, expires_at) values (p_id, p_lease, clock_timestamp() + p_lease_for)
  on conflict (event_id, lease) do update set expires_at = excluded.expires_at;
  return true;
end $$;
comment on function pgonce_renew_webhook(uuid, uuid, interval) is
  'pgonce: keeps a claim for p_lease_for from now on. It writes no row of webhook_events, so it does not collide with the '
  'transaction that completes the event. false = the event has an outcome, or is no longer yours.';

create or replace function pgonce_webhook_statuses(p_ids uuid[], p_leases uuid[]) returns table (id uuid, status text)
language sql stable set search_path from current set enable_seqscan = off as $$
  select e.id, e.status from webhook_events e join unnest(p_ids, p_leases) as mine (id, lease) on e.id = mine.id and e.lease = mine.lease
$$;
comment on function pgonce_webhook_statuses(uuid[], uuid[]) is
  'pgonce: the status of each event whose last claim is the one with this lease.';

-- A snapshot event and its thin twin report the same fact under two ids. The one received later is ignored. The receipt of the
-- earlier one may be committed after the later one was claimed. Then the earlier one waits while the later one is claimed, also
-- after its lease has run out: its process may still go on. It is ignored when the later one has succeeded. Otherwise it is
-- handled, and the later one finds it at its next claim. Both are never ignored: an ignored event does not keep its twin from
-- being handled.
create or replace function pgonce_twin_of_webhook(p_id uuid, out twin text, out must_wait boolean)
language sql stable set search_path from current set enable_seqscan = off as $$
  select t.stripe_event_id, t.status <> 'succeeded' and (t.received_at, t.id) > (e.received_at, e.id)
  from webhook_events e join lateral (
    select * from webhook_events t where t.stripe_event_id = e.snapshot_event
    union all
    select * from webhook_events t where t.snapshot_event = e.stripe_event_id) as t
    on (t.received_at, t.id) < (e.received_at, e.id) and t.status <> 'ignored' or t.status = 'succeeded'
    -- a direct client's is claimed again only by the next delivery
    or t.status = 'processing' and t.lease is not null
       and (t.queued or t.lease_expires_at > clock_timestamp() or pgonce_is_lease_renewed(t.id, t.lease))
  where e.id = p_id and t.id <> e.id
  order by 2 limit 1
$$;
comment on function pgonce_twin_of_webhook(uuid) is
  'pgonce: the id of the event that reports the same fact as this one and is, or will be, handled instead. A thin event has '
  'the id of its snapshot twin in snapshot_event. null = handle this one. must_wait: the other one is claimed and may yet fail; '
  'ask again later.';
