-- Claims when the database refuses to claim some event: a trigger or a constraint of the application's on webhook_events raises
-- an error. One statement claims a whole batch, so without this function one such event would stop all workers.

create or replace function pgonce_claim_webhooks_singly(
  p_limit integer default 100, p_lease_for interval default '30 seconds', p_max_attempts integer default 12,
  p_types text default null, p_other_types text default null, p_since timestamptz default null)
returns table (id uuid, stripe_event_id text, event_type text, payload text, raw bytea, lease uuid, attempts integer,
               order_key text, due timestamptz)
language plpgsql set search_path from current set enable_sort = off
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  v_now timestamptz;  -- a variable: a volatile function cannot limit the index scan
  v_claimed integer := 0;
  v_error text;
  v_context text;
  r record;
  c record;
begin
  perform pgonce_wait_for_other_claims(p_types);
  v_now := clock_timestamp();
  for r in
    select e.id, e.attempts, e.status = 'processing' and e.lease is not null as suspect
    from webhook_events e
    where e.next_attempt_at <= v_now and e.next_attempt_at >= coalesce(p_since, '-infinity')
      and (e.status = 'failed' or e.status = 'processing' and coalesce(e.lease_expires_at, '-infinity') <= v_now)
      and (p_types is null or e.event_type ~ p_types) and (p_other_types is null or e.event_type !~ p_other_types)
      and not pgonce_is_webhook_left_out(e.id)
    order by e.next_attempt_at
    limit p_limit
  loop
    exit when r.suspect and v_claimed > 0;
    begin
      select * into c from pgonce_claim_webhooks(1, p_lease_for, p_max_attempts, p_types, p_other_types, p_since, r.id);
      set constraints all immediate;
    exception when others then
      if not pgonce_is_refusal(sqlstate) then raise; end if;
      get stacked diagnostics v_error = message_text, v_context = pg_exception_context;
      v_error := pgonce_refusal('claim', v_error, v_context);
      -- The subtransaction has given the row's lock back: meanwhile another client may have claimed the event, or handled it.
      perform from webhook_events e
      where e.id = r.id and e.attempts = r.attempts
        and (e.status = 'failed' or e.status = 'processing' and coalesce(e.lease_expires_at, '-infinity') <= v_now)
      for update skip locked;
      continue when not found;
      begin
        update webhook_events e
        set status = 'failed', processed_at = v_now, error_message = v_error, attempts = e.attempts + 1,
            lease = null, lease_expires_at = null,
            next_attempt_at = case when e.attempts + 1 < p_max_attempts
              then v_now + least(interval '10 seconds' * 2 ^ least(e.attempts, 20), interval '6 hours') end
        where e.id = r.id;
        if not found then raise 'not written'; end if;
        set constraints all immediate;
      exception when others then
        if not pgonce_is_refusal(sqlstate) then raise; end if;
        perform pgonce_leave_out_webhook(r.id);
      end;
      perform pgonce_keep_refusal(r.id, r.attempts + 1, v_error);
      continue;
    end;
    continue when c.id is null;  -- it must wait, or is a dead letter now
    v_claimed := v_claimed + 1;
    return query select c.id, c.stripe_event_id, c.event_type, c.payload, c.raw, c.lease, c.attempts, c.order_key, c.due;
    exit when r.suspect;
  end loop;
end $$;
comment on function pgonce_claim_webhooks_singly(integer, interval, integer, text, text, timestamptz) is
  'pgonce: pgonce_claim_webhooks, but each event in a subtransaction of its own: for when that function raises an error of a '
  'trigger or constraint of yours. An event that cannot be claimed is failed, with the error, and retried with backoff. One '
  'whose row cannot be written at all is left for 5 minutes; pgonce_webhook_attempts has the error.';
