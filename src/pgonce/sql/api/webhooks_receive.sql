-- Whether a delivery could be recorded now. The check writes, so it fails on a server that cannot write. It does not use the
-- receiver's own functions: an error in them must not be caught here.

create or replace function pgonce_check_inbox(p_lock_timeout interval default '1 second') returns boolean
language plpgsql set search_path from current as $$
declare
  v_event text := 'pgonce_check_inbox ' || gen_random_uuid()::text;
  v_stored text;
begin
  if coalesce(p_lock_timeout, interval '0') < interval '1 millisecond' or p_lock_timeout > interval '1 minute' then
    raise sqlstate '22023' using message = 'the lock timeout must be between 1 millisecond and 1 minute';
  end if;
  perform set_config('lock_timeout', (extract(epoch from p_lock_timeout) * 1000)::integer::text, true);
  lock table webhook_events in row exclusive mode;
  begin
    insert into webhook_events (stripe_event_id, event_type, payload, status)
    values (v_event, 'pgonce_check_inbox', '{}', 'ignored')
    on conflict (stripe_event_id) do nothing returning stripe_event_id into v_stored;  -- as a delivery: a rule refuses the clause
    if v_stored is distinct from v_event then
      perform pgonce_refuse_unwritten_webhook(v_event);
    end if;
    set constraints all immediate;
    raise sqlstate 'PG001';
  exception when sqlstate 'PG001' then null;  -- the row is rolled back; the commit waits for the disk and the standbys
  end;
  return true;
end $$;
comment on function pgonce_check_inbox(interval) is
  'pgonce: writes a row to webhook_events and rolls it back, for a readiness probe. Raises the error that would prevent the '
  'recording of a delivery: a read-only server (25006), a full disk (53100), a lock on the table that lasts longer than '
  'p_lock_timeout (55P03), a missing table or privilege, a trigger that leaves the row out (PT503).';
