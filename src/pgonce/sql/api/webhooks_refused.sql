-- Counts the deliveries that receivers refuse, and finds the alerts about them. A signing secret that was changed at Stripe but
-- not here, or an endpoint that Stripe has disabled, is noticed within the hour.

create or replace function pgonce_count_refused_deliveries(p_reasons text[], p_deliveries bigint[]) returns integer
language plpgsql set search_path from current as $$
declare
  v_written integer;
begin
  if cardinality(p_reasons) <> cardinality(p_deliveries) or array_position(p_reasons, null) is not null
     or exists (select from unnest(p_deliveries) as n where coalesce(n, 0) < 1) then
    raise sqlstate '22023' using message = 'each reason needs a number of deliveries of at least 1';
  elsif exists (select from unnest(p_reasons) as r
                where r not in ('header', 'signature', 'time', 'body', 'size', 'slow', 'test', 'path', 'database')) then
    raise sqlstate '22023' using message = 'the reason is header, signature, time, body, size, slow, test, path or database';
  end if;
  delete from pgonce_refused_deliveries where minute < clock_timestamp() - interval '90 days';
  insert into pgonce_refused_deliveries as d (minute, reason, deliveries)
  select date_trunc('minute', clock_timestamp()), r.reason, sum(r.deliveries)::bigint
  from unnest(p_reasons, p_deliveries) as r (reason, deliveries) group by r.reason
  order by r.reason  -- two receivers that write concurrently would deadlock otherwise
  on conflict (minute, reason) do update set deliveries = d.deliveries + excluded.deliveries;
  get diagnostics v_written = row_count;
  return v_written;
end $$;
comment on function pgonce_count_refused_deliveries(text[], bigint[]) is
  'pgonce: adds to the counts of this minute. reasons: header (none, or not one of Stripe''s), signature, time, body (not an event), '
  'size, slow, test (a test event at a live endpoint), path (sent with a signature to another path), database (which refuses to '
  'store it). Counts older than 90 days are deleted. Returns the rows written.';

create or replace function pgonce_list_refused_deliveries(p_since timestamptz default now() - interval '1 day')
returns table (reason text, deliveries bigint, first_minute timestamptz, last_minute timestamptz)
language sql stable set search_path from current as $$
  select d.reason, sum(d.deliveries)::bigint, min(d.minute), max(d.minute)
  from pgonce_refused_deliveries d where d.minute >= date_trunc('minute', p_since)
  group by d.reason order by 2 desc, 1
$$;
comment on function pgonce_list_refused_deliveries(timestamptz) is
  'pgonce: how many deliveries were refused since then, for each reason, the most frequent first.';

-- Refused: at least three in an hour, so that a single request of a scanner causes no alert. There is one alert for each
-- reason and hour. A header that is not Stripe's is not counted here: only scanners send it. Silent: no delivery for a day,
-- and for five times the longest gap of the four weeks before.
create or replace function pgonce_find_delivery_alerts(p_since timestamptz)
returns table (kind text, subject text, dedupe_key text, message text, detail jsonb, happened_at timestamptz,
               series text, digits integer)
language plpgsql stable set search_path from current as $$
declare
  v_last timestamptz;
  v_gap interval;
  v_command text := pgonce_command('pgonce webhook refused');
begin
  return query
    select 'deliveries_refused', r.reason, format('deliveries_refused/%s/%s', r.reason, extract(epoch from r.hour)::bigint),
           format('%s deliveries were refused since %s UTC: %s. Next: `%s`', r.deliveries,
                  to_char(r.hour at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
                  case r.reason when 'signature' then 'the signature does not fit; is the endpoint''s secret the current one'
                                when 'time' then 'the signature is too old or in the future; is this machine''s clock right'
                                when 'body' then 'signed, but not an event'
                                when 'size' then 'the body is over the limit'
                                when 'path' then 'they were sent to another path; is the endpoint''s URL right'
                                when 'database' then 'the database refuses to store them; the receiver''s log says why'
                                else 'the body took too long' end, v_command),
           jsonb_build_object('reason', r.reason, 'deliveries', r.deliveries, 'since', r.hour,
                              'command', v_command),
           r.last, format('deliveries_refused/%s/%s', r.reason, extract(epoch from r.hour)::bigint), 0
    from (select d.reason, date_bin('1 hour', d.minute, '2000-01-01 00:00:00Z') as hour, sum(d.deliveries) as deliveries,
                 max(d.minute) as last
          from pgonce_refused_deliveries d
          where d.minute >= p_since and d.reason not in ('header', 'test')
          group by 1, 2 having sum(d.deliveries) >= 3) r
    order by r.last, r.reason;

  -- without what `pgonce reconcile` has found: it would hide that nothing is delivered any more
  select e.received_at into v_last from webhook_events e where e.deliveries > 0 order by e.received_at desc limit 1;
  if v_last is null or v_last > clock_timestamp() - interval '1 day' then return; end if;
  -- Only during a silence. At most 100,000 entries of an index are read.
  select max(g.gap) into v_gap from (
    select e.received_at - lag(e.received_at) over (order by e.received_at) as gap
    from (select b.received_at from webhook_events b where b.deliveries > 0 and b.received_at >= v_last - interval '28 days'
          order by b.received_at desc limit 100000) e) g;
  if v_gap is null or clock_timestamp() - v_last < greatest(interval '1 day', 5 * v_gap) then return; end if;
  return query
    select 'deliveries_silent', 'webhooks', 'deliveries_silent/' || extract(epoch from v_last)::bigint,
           format('no delivery since %s UTC; in the four weeks before there was never a gap longer than %s. Is the endpoint '
                  'enabled at Stripe? Next: `%s`',
                  to_char(v_last at time zone 'UTC', 'YYYY-MM-DD HH24:MI'), pgonce_duration_text(v_gap), v_command),
           jsonb_build_object('last', v_last, 'longest_gap', v_gap, 'command', v_command),
           clock_timestamp(), 'deliveries_silent/' || extract(epoch from v_last)::bigint, 0;
end $$;
comment on function pgonce_find_delivery_alerts(timestamptz) is
  'pgonce: the part of pgonce_find_alerts about deliveries: deliveries_refused, three or more in an hour for one reason, and '
  'deliveries_silent, none for a day and for five times the longest gap of the four weeks before; never before the first one.';
