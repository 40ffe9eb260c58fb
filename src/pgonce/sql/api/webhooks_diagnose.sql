-- What state an unfinished event is in, how that is known, and what to do. The sentences are also the table in
-- docs/webhooks.md (tools/diagnoses.py), and the console, `webhook show` and `--json` print them.

create or replace function pgonce_webhook_causes()
returns table (kind text, needs_person boolean, row_says text, cause text, action text, command text)
language plpgsql immutable parallel safe set search_path from current as $$  -- as pgonce_job_causes
begin
  return query values
    ('handled', false, '`processing`, `lease_expires_at` ahead, or its row is locked',
     'A process is handling it, or has died within its lease.',
     'Wait. If the process has died, the next delivery or a worker takes the event over.', 'pgonce ps'),
    ('orphaned', false, '`processing`, `lease_expires_at` past, not `queued`',
     'The client that handled it itself has died, and it was not delivered again yet.',
     'Wait for the next delivery, or let a worker handle it now.', 'pgonce webhook replay ID'),
    ('died', false, '`processing`, `queued`, `lease_expires_at` past',
     'The worker that handled it has died, and another one is running.',
     'Wait: the other worker claims it.', 'pgonce ps'),
    ('no_worker', true, '`processing` and `queued`, or `failed`, and `next_attempt_at` past',
     'No worker is running that has a handler for its type.',
     'Start a worker with the app that handles it.', 'pgonce worker --app MODULE:APP'),
    ('late', true, 'the same for over five minutes, and a worker is running',
     'Workers that handle its type are running, but none of them has claimed it.',
     'See whether they are all busy, or hang. Start more of them, or raise --concurrency.', 'pgonce ps'),
    ('due', false, 'the same for less',
     'It is due, and a worker will claim it.',
     'Wait.', 'pgonce ps'),
    ('unhandled', false, '`processing` and `queued`, due for less than a minute; no process of the last hour has a handler for its type',
     'No process has a handler for its type: a worker ends it as ignored.',
     'Wait. If it should be handled, register a handler.', 'pgonce ps'),
    ('behind', false, '`processing`, no lease, an earlier event has the same `order_key`',
     'It waits for an earlier event of the same object.',
     'See why the earlier one has not ended.', 'pgonce webhook show ID'),
    ('postponed', false, '`processing`, no lease, `next_attempt_at` ahead',
     'It waits for the time that its handler asked for, or until its object is free.',
     'Wait, or have it handled now.', 'pgonce webhook replay ID'),
    ('retrying', false, '`failed`, `next_attempt_at` ahead',
     'Its last attempt failed, and a worker will try it again by itself.',
     'Read the error. If it stays, fix the handler; a release that fixes it needs no replay.', 'pgonce webhook replay ID'),
    ('dead', true, '`failed`, `queued`, no `next_attempt_at`',
     'A dead letter: its attempts are used up, and nobody tries it again by itself.',
     'Fix the handler and release it. Then replay the event.', 'pgonce webhook replay ID'),
    ('redelivered', false, '`failed`, not `queued`, received within three days (from Shopify: four hours, from GitHub: none)',
     'The client that handled it itself has failed. The sender''s next delivery is the retry.',
     'Fix the handler. Then wait for the sender, or let a worker handle it now.', 'pgonce webhook replay ID'),
    ('abandoned', true, '`failed`, not `queued`, received earlier',
     'The client that handled it itself has failed, and the sender does not deliver it again.',
     'Fix the handler. Then replay the event; a worker handles it.', 'pgonce webhook replay ID'),
    ('no_handler', true, '`ignored`, `ignored_reason` "no handler for …"',
     'No process had a handler for its type.',
     'Register one: a worker that starts with it takes back the events of the last day. Replay older ones.',
     'pgonce webhook replay ID'),
    ('absent', true, 'no row',
     'It never came, or it was refused with a 4xx.',
     'Stripe''s dashboard shows the answer that it got. Check the secret, and what was refused here.',
     'pgonce webhook refused');
end $$;
comment on function pgonce_webhook_causes() is
  'pgonce: everything that can be the matter with an event: what its row says, what it is, what to do and which command does '
  'it. needs_person: nothing happens by itself.';

-- Without a search_path, as pgonce_elapsed_ms. Stripe's and Svix' days, Shopify's hours; GitHub does not deliver again by itself.
create or replace function pgonce_delivered_until(p_provider text, p_received_at timestamptz) returns timestamptz
language sql stable parallel safe
return p_received_at + case p_provider when 'github' then interval '0' when 'shopify' then interval '4 hours' else interval '72 hours' end;
comment on function pgonce_delivered_until(text, timestamptz) is
  'pgonce: until when the sender of an event that was answered with an error delivers it again by itself.';

create or replace function pgonce_has_live_handler(p_event_type text) returns boolean
language sql stable set search_path from current as $$
  select exists (
    select from pgonce_live_processes p cross join unnest(p.handlers) as g (pattern)
    where p.does = 'events' and p_event_type ~ pgonce_glob_expression(g.pattern))
$$;
comment on function pgonce_has_live_handler(text) is
  'pgonce: whether a process that was seen within the last minute has a handler for this type of event.';

create or replace function pgonce_is_type_unhandled(p_event_type text) returns boolean
language sql stable set search_path from current as $$
  select exists (select from pgonce_live_processes p where p.does = 'events')
     and coalesce(p_event_type !~ pgonce_handled_types(), true)
$$;
comment on function pgonce_is_type_unhandled(text) is
  'pgonce: whether the workers that are running end events of this type as ignored: no process seen within the last hour has a '
  'handler for it.';

-- Whether the row is locked is read from pg_locks: a row lock cannot be tried in a read-only transaction. The transaction
-- that has changed or locked a row is its xmax, and holds a lock on its own id until it ends. This counts: a handler may run
-- longer than the lease of its claim, because its transaction holds the row.
create or replace function pgonce_diagnose_webhooks(p_stripe_event_ids text[])
returns table (stripe_event_id text, kind text, needs_person boolean, cause text, evidence text, action text, command text)
language plpgsql stable set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_utc constant text := 'YYYY-MM-DD HH24:MI:SS "UTC"';
  v_open xid[];
  v record;
  v_kind text;
  v_evidence text;
  v_earlier_id text;
  v_earlier text;
begin
  for v in
    select w.event, e.* from unnest(p_stripe_event_ids) with ordinality as w (event, nr)
    left join lateral (
      select o.id, o.event_type, o.status, o.queued, o.lease, o.lease_expires_at, o.next_attempt_at, o.attempts, o.order_key,
             o.received_at, o.provider, o.ignored_reason, o.error_message, o.xmax as changed_by
      from webhook_events o where o.stripe_event_id = w.event) e on true
    order by w.nr
  loop
    v_kind := null;
    v_earlier_id := null;
    continue when v.status = 'succeeded'
      or v.status = 'ignored' and (coalesce(v.ignored_reason, '') not like 'no handler%' or v.queued and v.lease is not null);
    if v_open is null then
      v_open := array(select l.transactionid from pg_locks l where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock');
    end if;
    if v.id is null then
      v_kind := 'absent';
      v_evidence := format('There is no event %s.', v.event);
    elsif v.changed_by = any (v_open) then
      v_kind := 'handled';
      v_evidence := 'A transaction has locked its row.';
    elsif v.status = 'processing' and v.lease is not null
          and (v.lease_expires_at > v_now or pgonce_is_lease_renewed(v.id, v.lease)) then
      v_kind := 'handled';
      v_evidence := format('Attempt %s is under a lease%s.', v.attempts,
        case when v.lease_expires_at > v_now then ' until ' || to_char(v.lease_expires_at at time zone 'UTC', v_utc)
             else ' that its holder renews' end);
    elsif v.status = 'processing' and not v.queued then
      v_kind := 'orphaned';
      v_evidence := coalesce('Its lease ended at ' || to_char(v.lease_expires_at at time zone 'UTC', v_utc) || '.',
                             'Nobody has a lease of it.');
    elsif v.status = 'ignored' then
      v_kind := 'no_handler';
      v_evidence := format('"%s". %s.', v.ignored_reason, case when pgonce_has_live_handler(v.event_type)
        then 'A process that is running has one now' else 'No process that is running has one now, either' end);
    elsif v.status = 'failed' and v.next_attempt_at is null then
      v_kind := case when v.queued then 'dead' when pgonce_delivered_until(v.provider, v.received_at) > v_now then 'redelivered' else 'abandoned' end;
    elsif v.status = 'failed' and v.next_attempt_at > v_now then
      v_kind := 'retrying';
    else
      if v.order_key is not null then
        select o.stripe_event_id, format('%s, %s, is %s.', o.stripe_event_id, o.event_type,
          case when o.status = 'failed' then 'tried again at ' || to_char(o.next_attempt_at at time zone 'UTC', v_utc)
               else 'not finished' end)
        into v_earlier_id, v_earlier from webhook_events o
        where o.order_key = v.order_key and o.next_attempt_at is not null
          and (o.received_at, o.id) < (v.received_at, v.id) and o.status not in ('succeeded', 'ignored')
          and (o.status = 'processing' or o.received_at > v_now - interval '1 hour')
        order by o.received_at, o.id limit 1;
      end if;
      if v.next_attempt_at > v_now then  -- not due: whether a worker is running does not matter yet
        v_kind := case when v_earlier_id is null then 'postponed' else 'behind' end;
      elsif not pgonce_has_live_handler(v.event_type) then
        -- workers look for such events every two seconds
        v_kind := case when v.status = 'processing' and v.next_attempt_at > v_now - interval '1 minute'
                         and pgonce_is_type_unhandled(v.event_type) then 'unhandled' else 'no_worker' end;
      elsif v_earlier_id is not null then
        v_kind := 'behind';
      elsif v.lease is not null then
        v_kind := 'died';
      elsif v.next_attempt_at < v_now - interval '5 minutes' then
        v_kind := 'late';
      else
        v_kind := 'due';
      end if;
      v_evidence := case v_kind
        when 'behind' then v_earlier
        when 'postponed' then format('Its next attempt is at %s.', to_char(v.next_attempt_at at time zone 'UTC', v_utc))
        when 'died' then format('The lease of attempt %s ended at %s.', v.attempts, to_char(v.lease_expires_at at time zone 'UTC', v_utc))
        else format('It has been due since %s. %s', to_char(v.next_attempt_at at time zone 'UTC', v_utc), (
          select case when count(*) = 0 then format('No process seen within the last minute handles %s.', v.event_type)
                      else format('The processes that handle %s are busy with %s of the %s that they can do at once.', v.event_type,
                                  sum(p.busy), sum(p.capacity)) end
          from pgonce_live_processes p
          where p.does = 'events' and exists (
            select from unnest(p.handlers) as g (pattern) where v.event_type ~ pgonce_glob_expression(g.pattern))))
        end;
    end if;
    if v.status = 'failed' and v_kind in ('dead', 'redelivered', 'abandoned', 'retrying') then
      v_evidence := format('%s%s, attempt %s.%s', coalesce(pgonce_error_line(v.error_message), 'No reason was given'),
        ' at ' || pgonce_error_place(v.error_message), v.attempts,
        case when v_kind = 'retrying' then ' The next one is at ' || to_char(v.next_attempt_at at time zone 'UTC', v_utc) || '.' end);
    end if;
    return query
      select v.event, c.kind, c.needs_person, c.cause, v_evidence, c.action,
             pgonce_command(c.command, coalesce(v_earlier_id, v.event))
      from pgonce_webhook_causes() c where c.kind = v_kind;
  end loop;
end $$;
comment on function pgonce_diagnose_webhooks(text[]) is
  'pgonce: what is the matter with each of these events that is not final: what it is, how we know, what to do, and the command '
  'that does it. needs_person: nothing happens by itself. No row for an event that has succeeded, or that a handler has ignored.';

create or replace function pgonce_diagnose_webhook(p_stripe_event_id text)
returns table (kind text, needs_person boolean, cause text, evidence text, action text, command text)
language sql stable set search_path from current as $$
  select d.kind, d.needs_person, d.cause, d.evidence, d.action, d.command
  from pgonce_diagnose_webhooks(array[p_stripe_event_id]) d
$$;
comment on function pgonce_diagnose_webhook(text) is
  'pgonce: pgonce_diagnose_webhooks for one event. A row also for an event that does not exist.';

-- A handler's event stays due until the handler ends. A lease that its holder renews began before it expired.
create or replace function pgonce_due_webhooks(p_before timestamptz, p_limit integer)
returns table (stripe_event_id text, due_at timestamptz, lease_expires_at timestamptz, held boolean, state text)
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
begin
  return query
    select e.stripe_event_id, e.next_attempt_at, e.lease_expires_at,
           e.status = 'processing' and e.lease is not null
             and (e.lease_expires_at > v_now or pgonce_is_lease_renewed(e.id, e.lease)),
           case when e.status = 'processing' and e.lease is null then 'waiting' else e.status end
    from webhook_events e
    -- a direct client's UPDATE of the status leaves next_attempt_at as it is
    where e.next_attempt_at <= p_before and e.status not in ('succeeded', 'ignored') order by e.next_attempt_at limit p_limit;
end $$;
comment on function pgonce_due_webhooks(timestamptz, integer) is
  'pgonce: the first p_limit events that were due before a time. held: a handler is at work on it, so it does not wait. '
  'state: waiting, processing or failed.';
