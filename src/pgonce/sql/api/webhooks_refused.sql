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
-- reason and hour. A header that is not Stripe's is not counted here: only scanners send it. Silent: no delivery of a sender for
-- a day, and for five times its longest gap of the four weeks before.
--
-- Senders are found by the types of their events, with two look-ups in an index for each: among a million events a day of one
-- sender nobody could look for the last of another. Only of a silent sender the entries of four weeks are read: all of them, or the
-- newest 100,000 of all senders if it had more than 20,000.
create or replace function pgonce_find_delivery_alerts(p_since timestamptz)
returns table (kind text, subject text, dedupe_key text, message text, detail jsonb, happened_at timestamptz,
               series text, digits integer)
language plpgsql stable set search_path from current set enable_seqscan = off set jit = off as $$
declare
  s record;
  v_gap interval;
  v_count bigint;
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

  for s in
    with recursive types as (
      (select e.event_type from webhook_events e order by e.event_type using ~<~ limit 1)
      union all
      select (select e.event_type from webhook_events e where e.event_type ~>~ t.event_type order by e.event_type using ~<~ limit 1)
      from types t where t.event_type is not null)
    select l.provider, max(l.received_at) as last, array_agg(t.event_type) as types
    from (select * from types where event_type is not null limit 1000) t
    -- without what `pgonce reconcile` has found: it would hide that nothing is delivered any more
    cross join lateral (
      select n.provider, n.received_at
      from (select e.provider, e.received_at, e.deliveries from webhook_events e where e.event_type = t.event_type
            order by e.received_at desc limit 1000) n
      where n.deliveries > 0 order by n.received_at desc limit 1) l
    group by l.provider having max(l.received_at) <= clock_timestamp() - interval '1 day' order by l.provider
  loop
    select max(g.gap), count(*) into v_gap, v_count from (
      select pgonce_elapsed(lag(e.received_at) over (order by e.received_at), e.received_at) as gap
      from (select w.received_at from webhook_events w
            where w.event_type = any (s.types) and w.received_at >= s.last - interval '28 days' and w.deliveries > 0 limit 20001) e) g;
    if v_count > 20000 then
      select max(g.gap) into v_gap from (
        select pgonce_elapsed(lag(e.received_at) over (order by e.received_at), e.received_at) as gap
        from (select w.received_at, w.provider, w.deliveries from webhook_events w
              where w.received_at between s.last - interval '28 days' and s.last order by w.received_at desc limit 100000) e
        where e.provider = s.provider and e.deliveries > 0) g;
    end if;
    continue when v_gap is null or pgonce_elapsed(s.last, clock_timestamp()) < 5 * v_gap;
    kind := 'deliveries_silent';
    subject := s.provider;
    dedupe_key := format('deliveries_silent/%s/%s', s.provider, extract(epoch from s.last)::bigint);
    message := format('no delivery from %s since %s UTC; in the four weeks before there was never a gap longer than %s. Is the '
                      'endpoint enabled there? Next: `%s`', s.provider, to_char(s.last at time zone 'UTC', 'YYYY-MM-DD HH24:MI'),
                      pgonce_duration_text(v_gap), v_command);
    detail := jsonb_build_object('provider', s.provider, 'last', s.last, 'longest_gap', v_gap, 'command', v_command);
    happened_at := clock_timestamp();
    series := dedupe_key;
    digits := 0;
    return next;
  end loop;
end $$;
comment on function pgonce_find_delivery_alerts(timestamptz) is
  'pgonce: the part of pgonce_find_alerts about deliveries: deliveries_refused, three or more in an hour for one reason, and '
  'deliveries_silent, none of a sender for a day and for five times its longest gap of the four weeks before; never before its '
  'first one.';
