-- Writes to many events at once, of which the database may refuse one: a trigger or a constraint of the application's on
-- webhook_events raises an error. Then each event is written by itself, so that the refused one stops no other.
--
-- A refused event is left out for 5 minutes. Otherwise a thousand of them would come before all others at each call.

create or replace function pgonce_is_refusal(p_sqlstate text) returns boolean
language sql immutable parallel safe set search_path from current as $$
  select p_sqlstate !~ '^(08|25|40|53|55|57|58|XX)'  -- those are not the row's fault: another row would fail, too
$$;
comment on function pgonce_is_refusal(text) is
  'pgonce: whether an error with this SQLSTATE is one of the row that is written, and not of the server, the connection or a conflict.';

create or replace function pgonce_refusal(p_change text, p_reason text, p_context text) returns text
language sql immutable parallel safe set search_path from current as $$
  -- in PostgreSQL's form, from which pgonce_error_line takes the first line
  select format(E'the database refuses to %s this event: %s\nCONTEXT: %s', p_change, p_reason, replace(p_context, E'\n', E'\n  '))
$$;
comment on function pgonce_refusal(text, text, text) is 'pgonce: the error of an event that the database refuses to have changed.';

-- The lease of nobody in pgonce_webhook_leases stands for "left out".
create or replace function pgonce_is_webhook_left_out(p_id uuid) returns boolean
language sql stable set search_path from current as $$
  select pgonce_is_lease_renewed(p_id, '00000000-0000-0000-0000-000000000000')
$$;
comment on function pgonce_is_webhook_left_out(uuid) is
  'pgonce: whether the database has refused to write this event within the last 5 minutes.';

create or replace function pgonce_leave_out_webhook(p_id uuid) returns void
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_nobody uuid := '00000000-0000-0000-0000-000000000000';
  v_now timestamptz := clock_timestamp();  -- a variable: a volatile function cannot limit the index scan
begin
  delete from pgonce_webhook_leases l where l.expires_at < v_now - interval '1 hour' and l.lease = v_nobody;
  insert into pgonce_webhook_leases as l (event_id, lease, expires_at) values (p_id, v_nobody, v_now + interval '5 minutes')
  on conflict (event_id, lease) do update set expires_at = excluded.expires_at;
end $$;
comment on function pgonce_leave_out_webhook(uuid) is
  'pgonce: leaves an event that the database refuses to write out of claims one by one, and of pgonce_change_webhooks, for 5 minutes.';

create or replace function pgonce_keep_refusal(p_id uuid, p_attempt integer, p_error text) returns void
language sql set search_path from current as $$
  insert into pgonce_webhook_attempts (event_id, what, attempt, error)
  select p_id, 'failed', p_attempt, p_error
  where not exists (select from pgonce_webhook_attempts a
                    where a.event_id = p_id and a.error = p_error and a.ended_at > clock_timestamp() - interval '1 hour')
$$;
comment on function pgonce_keep_refusal(uuid, integer, text) is
  'pgonce: keeps in an event''s history why the database refuses to write it, once an hour.';

create or replace function pgonce_change_webhooks_at_once(p_ids uuid[], p_change text, p_reason text default null) returns uuid[]
language plpgsql set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_changed uuid[];
begin
  if p_change = 'queue' then
    with changed as (
      update webhook_events e
      set status = 'processing', queued = true, lease = null, lease_expires_at = null, ignored_reason = null, processed_at = null,
          attempts = case when e.status = 'processing' then e.attempts else 0 end, next_attempt_at = v_now
      where e.id = any (p_ids) returning e.id)
    select array_agg(c.id) into v_changed from changed c;
  elsif p_change = 'release' then
    with changed as (
      update webhook_events e set lease = null, lease_expires_at = null, attempts = e.attempts - 1
      where e.id = any (p_ids) returning e.id)
    select array_agg(c.id) into v_changed from changed c;
  elsif p_change = 'ignore' then
    with changed as (
      update webhook_events e
      set status = 'ignored', lease = null, lease_expires_at = null, processed_at = v_now, error_message = null, next_attempt_at = null,
          ignored_reason = coalesce(p_reason, format('no handler for %s', e.event_type))
      where e.id = any (p_ids) returning e.id)
    select array_agg(c.id) into v_changed from changed c;
  else
    raise sqlstate '22023' using message = format('the change must be queue, release or ignore, not %s', p_change);
  end if;
  return coalesce(v_changed, '{}');
end $$;
comment on function pgonce_change_webhooks_at_once(uuid[], text, text) is
  'pgonce: queues, releases or ignores events that the caller has locked; all of them or, with an error, none. Returns the ids of those that '
  'were written.';

create or replace function pgonce_deferred_refusal() returns text
language plpgsql set search_path from current as $$
declare
  v_context text;
begin
  if not exists (select from pg_trigger t where t.tgrelid = 'webhook_events'::regclass and t.tgdeferrable) then return null; end if;
  begin
    set constraints all immediate;
    raise sqlstate 'PG001';  -- a rollback: what the triggers have done is undone, and they are deferred again
  exception
    when sqlstate 'PG001' then return null;
    when others then
      if not pgonce_is_refusal(sqlstate) then raise; end if;
      get stacked diagnostics v_context = pg_exception_context;
      return format(E'%s\nCONTEXT: %s', sqlerrm, replace(v_context, E'\n', E'\n  '));
  end;
end $$;
comment on function pgonce_deferred_refusal() is
  'pgonce: the error of a deferred trigger or constraint, if the transaction committed now; null = none. They stay deferred.';

create or replace function pgonce_change_webhooks(
  p_ids uuid[], p_change text, p_reason text default null, p_check_now boolean default true)
returns uuid[]
language plpgsql set search_path from current as $$
declare
  v_changed uuid[] := '{}';
  v_one uuid[];
  v_id uuid;
  v_error text;
  v_context text;
  v_checks boolean;
begin
  if coalesce(cardinality(p_ids), 0) = 0 then return '{}'; end if;
  v_checks := not p_check_now and pgonce_deferred_refusal() is null;  -- what is refused already is not the fault of these events
  begin
    v_changed := pgonce_change_webhooks_at_once(p_ids, p_change, p_reason);
    if p_check_now then set constraints all immediate; end if;
    if v_checks and pgonce_deferred_refusal() is not null then raise 'one is refused'; end if;
    if cardinality(v_changed) = cardinality(p_ids) then return v_changed; end if;
  exception when others then
    if not pgonce_is_refusal(sqlstate) then raise; end if;
    v_changed := '{}';
  end;
  foreach v_id in array p_ids loop
    continue when v_id = any (v_changed);
    begin
      v_one := pgonce_change_webhooks_at_once(array[v_id], p_change, p_reason);
      if v_one = '{}' then raise 'a trigger leaves it as it is'; end if;
      if p_check_now then set constraints all immediate; end if;
      v_error := case when v_checks then pgonce_deferred_refusal() end;
      if v_error is not null then raise '%', v_error; end if;
      v_changed := v_changed || v_one;
      continue;
    exception when others then
      if not pgonce_is_refusal(sqlstate) then raise; end if;
      get stacked diagnostics v_error = message_text, v_context = pg_exception_context;
    end;
    perform pgonce_leave_out_webhook(v_id);
    perform pgonce_keep_refusal(v_id, (select e.attempts from webhook_events e where e.id = v_id),
                                pgonce_refusal(p_change, v_error, v_context));
  end loop;
  return v_changed;
end $$;
comment on function pgonce_change_webhooks(uuid[], text, text, boolean) is
  'pgonce: queues, releases or ignores events that the caller has locked. One that a trigger or constraint of yours refuses is left '
  'out for 5 minutes, and its history has the error. Returns the ids of the others. p_check_now: false in a transaction in '
  'which deferred constraints must stay deferred.';
