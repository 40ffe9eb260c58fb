-- What the console shows of webhooks: lists by filter, groups of dead letters, one event and its neighbours. Every read is
-- bounded, and pages go on by (received_at, id).

-- A filter from the web has globs, and no regular expression: * is any text, ? is one sign.
create or replace function pgonce_like_glob(p_glob text) returns text
language sql immutable parallel safe set search_path from current as $$
  select translate(replace(replace(replace(p_glob, E'\\', E'\\\\'), '%', E'\\%'), '_', E'\\_'), '*?', '%_')
$$;
comment on function pgonce_like_glob(text) is 'pgonce: a glob (* and ?) as a pattern for LIKE.';

-- The types are read by one look-up in the index for each of them, not by reading all rows.
create or replace function pgonce_webhook_types(p_glob text default '*', p_limit integer default 500) returns setof text
language plpgsql stable set search_path from current set enable_seqscan = off as $$
declare
  v_like text := pgonce_like_glob(p_glob);
  v_start text := substring(p_glob from '^[^*?]*');
  v_type text := v_start;
  v_seen integer := 0;
begin
  select e.event_type into v_type from webhook_events e where e.event_type ~>=~ v_start order by e.event_type using ~<~ limit 1;
  while found and starts_with(v_type, v_start) and v_seen < 5000 loop
    v_seen := v_seen + 1;
    if v_type like v_like then
      return next v_type;
      p_limit := p_limit - 1;
      exit when p_limit <= 0;
    end if;
    select e.event_type into v_type from webhook_events e where e.event_type ~>~ v_type order by e.event_type using ~<~ limit 1;
  end loop;
end $$;
comment on function pgonce_webhook_types(text, integer) is
  'pgonce: the types of the recorded events that match a glob (* and ?), in the order of their bytes; at most 5,000 are looked at.';

create or replace function pgonce_webhook_condition(p_filter jsonb, out indexed text, out rest text)
language plpgsql immutable set search_path from current as $$
declare
  v_state text := p_filter ->> 'state';
  v_type text := p_filter ->> 'type';
  v_unknown text;
begin
  select string_agg(k, ', ') into v_unknown from jsonb_object_keys(p_filter) k
  where k not in ('state', 'type', 'object', 'customer', 'account', 'livemode', 'failure', 'since', 'until', 'ids', 'types');
  if v_unknown is not null then
    raise sqlstate '22023' using message = format('a filter has no %s', v_unknown);
  elsif v_state not in ('waiting', 'processing', 'succeeded', 'failed', 'dead', 'unsuccessful', 'ignored') then
    raise sqlstate '22023' using message = 'the state is waiting, processing, succeeded, failed, dead, unsuccessful (both) or ignored';
  end if;
  -- rest: what no index finds
  rest := concat_ws(' and ',
    case when v_state = 'succeeded' or v_state = 'ignored' and v_type is not null then 'status = ' || quote_literal(v_state) end,
    case (p_filter ->> 'livemode')::boolean when true then 'livemode' when false then 'not livemode' end);
  indexed := concat_ws(' and ',
    case v_state when 'waiting' then 'status = ''processing'' and lease is null'
                 when 'processing' then 'status = ''processing'' and lease is not null'
                 when 'failed' then 'status = ''failed'' and next_attempt_at is not null'
                 when 'dead' then 'status = ''failed'' and next_attempt_at is null'
                 when 'unsuccessful' then 'status = ''failed'''
                 when 'ignored' then case when v_type is null then 'status = ''ignored''' end end,
    'object_id = ' || quote_literal(left(p_filter ->> 'object', 255)),  -- as the columns are cut
    'customer_id = ' || quote_literal(left(p_filter ->> 'customer', 255)),
    'account = ' || quote_literal(left(p_filter ->> 'account', 255)), 'failure = ' || quote_literal(p_filter ->> 'failure'),
    'received_at >= ' || quote_literal(p_filter ->> 'since') || '::timestamptz',
    'received_at < ' || quote_literal(p_filter ->> 'until') || '::timestamptz',
    case when p_filter ? 'ids' then
      'stripe_event_id = any (' || quote_literal(array(select jsonb_array_elements_text(p_filter -> 'ids'))::text) || '::text[])' end,
    case when p_filter ? 'types' then
      'event_type = any (' || quote_literal(array(select jsonb_array_elements_text(p_filter -> 'types'))::text) || '::text[])' end);
end $$;
comment on function pgonce_webhook_condition(jsonb) is
  'pgonce: a filter of events as two conditions in SQL: what indexes find, and the rest. Raises 22023 for a filter that does not exist.';

create or replace function pgonce_find_webhooks(
  p_filter jsonb, p_limit integer, p_at timestamptz default null, p_id uuid default null, p_scan integer default 20000)
returns table (id uuid, received_at timestamptz, scanned boolean)
language plpgsql stable set search_path from current as $$
declare
  v_where text;
  v_rest text;
  v_types text[];
  v_exact constant boolean := not (coalesce(p_filter ->> 'type', '*') ~ '[*?]');
  v_few constant boolean := p_filter ?| array['object', 'customer', 'failure', 'ids', 'types']
                            or p_filter ->> 'state' in ('waiting', 'processing', 'failed', 'dead', 'unsuccessful');
  v_order constant text := ' order by received_at desc, id desc limit ';
begin
  select nullif(c.indexed, ''), nullif(c.rest, '') into v_where, v_rest from pgonce_webhook_condition(p_filter) c;
  v_where := concat_ws(' and ', v_where, case when p_at is not null then '(received_at, id) < ($3, $4)' end);
  if v_exact then
    v_where := concat_ws(' and ', nullif(v_where, ''), 'event_type = ' || quote_literal(p_filter ->> 'type'));
  elsif p_filter ->> 'type' <> '*' then
    v_types := array(select pgonce_webhook_types(p_filter ->> 'type'));
  end if;
  if v_types is not null and not v_few then
    -- The newest of each type are found by the index, and the newest of those are the answer.
    return query execute
      'select n.id, n.received_at, false from unnest($1) t (type) cross join lateral ('
      'select e.id, e.received_at from webhook_events e where ' || concat_ws(' and ', 'e.event_type = t.type', nullif(v_where, ''), v_rest)
      || v_order || '$2) n order by n.received_at desc, n.id desc limit $2' using v_types, p_limit, p_at, p_id;
    return;
  end if;
  v_where := coalesce(nullif(concat_ws(' and ', nullif(v_where, ''), 'event_type = any (' || quote_literal(v_types) || '::text[])'), ''), 'true');
  if v_rest is null or v_few then
    return query execute 'select id, received_at, false from webhook_events where ' || concat_ws(' and ', v_where, v_rest) || v_order || '$1'
      using p_limit, null::text, p_at, p_id;
    return;
  end if;
  -- No index finds the rest: the newest p_scan rows are read. If that is not enough, the last row says how far they went.
  return query execute
    'with read as materialized (select id, received_at, status, livemode from webhook_events where ' || v_where || v_order || '$2),'
    ' found as (select id, received_at from read where ' || v_rest || v_order || '$1),'
    ' last as (select id, received_at from read order by received_at, id limit 1)'
    ' select id, received_at, false from found union all'
    ' select id, received_at, true from last where (select count(*) from found) < $1 and (select count(*) from read) = $2'
    using p_limit, p_scan, p_at, p_id;
end $$;
comment on function pgonce_find_webhooks(jsonb, integer, timestamptz, uuid, integer) is
  'pgonce: the newest events that match a filter, an object with any of: state, type (a glob), object, customer, account, livemode, '
  'failure, since, until, ids, types. p_at and p_id: received_at and id of the last row of the page before. If a filter has no index, '
  'only p_scan rows are looked at; a last row with scanned = true says how far.';

-- One plan for all filters would suit none of them, so each call is planned with its own values (execute, above).
create or replace function pgonce_console_webhooks(
  p_filter jsonb default '{}', p_at timestamptz default null, p_id uuid default null, p_limit integer default 50)
returns table (id uuid, stripe_event_id text, event_type text, state text, attempts integer, deliveries integer, object_id text,
               customer_id text, account text, livemode boolean, received_at timestamptz, processed_at timestamptz,
               next_attempt_at timestamptz, reason text, kind text, needs_person boolean, cause text, evidence text, action text,
               command text, scanned boolean)
language plpgsql stable set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
begin
  return query
    with found as materialized (select f.* from pgonce_find_webhooks(p_filter, least(p_limit, 500), p_at, p_id) f),
    events as materialized (
      select e.id, e.stripe_event_id, e.event_type, pgonce_webhook_state(e.status, e.next_attempt_at, e.lease) as state, e.attempts,
             e.deliveries, e.object_id, e.customer_id, e.account, e.livemode, e.received_at, e.processed_at, e.next_attempt_at,
             case e.status when 'ignored' then e.ignored_reason when 'succeeded' then null
                           else pgonce_error_line(e.error_message) end as reason
      from found f join webhook_events e on e.id = f.id where not f.scanned),
    diagnoses as materialized (
      select d.* from pgonce_diagnose_webhooks(array(select e.stripe_event_id from events e where e.state <> 'succeeded')) d)
    select e.id, e.stripe_event_id, e.event_type, e.state, e.attempts, e.deliveries, e.object_id, e.customer_id, e.account,
           e.livemode, e.received_at, e.processed_at, e.next_attempt_at, e.reason, d.kind, d.needs_person, d.cause, d.evidence,
           d.action, d.command, false
    from events e left join diagnoses d on d.stripe_event_id = e.stripe_event_id
    union all
    select f.id, null, null, null, null, null, null, null, null, null, f.received_at, null, null, null, null, null, null, null, null,
           null, true
    from found f where f.scanned
    order by 11 desc, 1 desc;
end $$;
comment on function pgonce_console_webhooks(jsonb, timestamptz, uuid, integer) is
  'pgonce: a page of events, newest first, each with its diagnosis if it is not final. p_filter as for pgonce_find_webhooks; a last '
  'row with scanned = true says that the search stopped there. At most 500 rows.';

-- Dead letters and ignored events have indexes of their own. The others that are not final are looked at in the order in which
-- they are due, and the events of direct clients, which have no such time, in the index of the status: up to a bound in each, because
-- among a million that wait the few that are handled would be looked for in all of them. All are counted in the index of
-- received_at, up to a bound, and those that have succeeded are the difference.
create or replace function pgonce_console_webhook_counts(p_most integer default 10000) returns table (state text, events integer)
language plpgsql stable set search_path from current set enable_seqscan = off as $$
declare
  v_others integer := 0;
  v_capped boolean := false;
  v_all integer;
begin
  for state, events in
    -- pgonce_webhook_state, which a function with a setting cannot be: for 20,000 rows its calls took two thirds of the time
    with due as materialized (
      select case when e.status = 'processing' and e.lease is null then 'waiting' else e.status end as state from webhook_events e
      where e.next_attempt_at is not null order by e.next_attempt_at limit p_most + 1),
    direct as materialized (
      select e.next_attempt_at, case when e.lease is null then 'waiting' else e.status end as state from webhook_events e
      where e.status = 'processing' limit p_most + 1),
    looked as (
      select d.state from due d union all select d.state from direct d where d.next_attempt_at is null)
    select w.state, case when w.n > p_most then p_most + 1
                         when greatest((select count(*) from due), (select count(*) from direct)) <= p_most then w.n end
    from (select s.state, (select count(*) from looked l where l.state = s.state)::integer as n
          from unnest(array['failed', 'waiting', 'processing']) s (state)) w
    union all
    select 'dead', (select count(*) from (
      select from webhook_events e where e.status = 'failed' and e.next_attempt_at is null limit p_most + 1) n)
    union all
    select 'ignored', (select count(*) from (select from webhook_events e where e.status = 'ignored' limit p_most + 1) n)
  loop
    v_others := v_others + coalesce(events, 0);
    v_capped := v_capped or coalesce(events > p_most, true);
    return next;
  end loop;
  select count(*) into v_all
  from (select e.received_at from webhook_events e order by e.received_at desc limit p_most + 1 + case when v_capped then 0 else v_others end) n;
  state := null;
  events := least(v_all, p_most + 1);
  return next;
  state := 'succeeded';
  events := case when v_capped and v_all > p_most then null else least(v_all - v_others, p_most + 1) end;
  return next;
end $$;
comment on function pgonce_console_webhook_counts(integer) is
  'pgonce: how many events there are (state null), and how many in each state: p_most + 1 stands for more than p_most, null for not '
  'counted.';

create or replace function pgonce_console_dead_letters(p_limit integer default 50)
returns table (event_type text, failure text, events integer, first_at timestamptz, last_at timestamptz, example text,
               line text, place text, has_handler boolean, succeeded_since boolean)
language plpgsql stable set search_path from current set enable_seqscan = off as $$
#variable_conflict use_column
begin
  return query
    select g.event_type, g.failure, g.events, g.first_at, g.last_at, n.stripe_event_id, pgonce_error_line(n.error),
           pgonce_error_place(n.error), pgonce_has_live_handler(g.event_type),
           exists (select from (select e.status from webhook_events e
                                where e.event_type = g.event_type and e.received_at > g.last_at limit 1000) l
                   where l.status = 'succeeded')
    from (
      select d.event_type, d.failure, count(*)::integer as events, min(d.received_at) as first_at, max(d.received_at) as last_at
      from (select e.event_type, e.failure, e.received_at from webhook_events e
            where e.status = 'failed' and e.next_attempt_at is null limit 10001) d
      group by 1, 2 order by 5 desc limit p_limit) g
    cross join lateral (
      select e.stripe_event_id, right(e.error_message, 20000) as error from webhook_events e
      where e.status = 'failed' and e.next_attempt_at is null and e.event_type = g.event_type
        and e.failure = g.failure and e.received_at = g.last_at
      union all
      select e.stripe_event_id, null from webhook_events e
      where g.failure is null and e.status = 'failed' and e.next_attempt_at is null and e.event_type = g.event_type
        and e.failure is null and e.received_at = g.last_at
      limit 1) n
    order by g.last_at desc;
end $$;
comment on function pgonce_console_dead_letters(integer) is
  'pgonce: the dead letters by fault: the same type, exception and place are one row. At most 10,001 events are counted.';

create or replace function pgonce_console_find(p_text text, p_emails boolean default true)
returns table (noun text, id text, label text)
language plpgsql stable set search_path from current as $$
#variable_conflict use_column
declare
  v_text text := trim(p_text);
begin
  if coalesce(v_text, '') = '' or length(v_text) > 300 then return; end if;
  return query select 'webhook', e.stripe_event_id, e.event_type from webhook_events e where e.stripe_event_id = v_text;
  if found then return; end if;
  if v_text ~* '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' then
    return query select 'run', r.id::text, r.job_name from cron_job_runs r where r.id = v_text::uuid
                 union all select 'webhook', e.stripe_event_id, e.event_type from webhook_events e where e.id = v_text::uuid;
    return;
  end if;
  return query
    (select 'customer', v_text, null::text from webhook_events e where e.customer_id = v_text limit 1)
    union all (select 'object', v_text, null from webhook_events e where e.object_id = v_text and e.customer_id is distinct from v_text limit 1)
    union all (select 'account', v_text, null from webhook_events e where e.account = v_text limit 1)
    union all (select 'job', v_text, null where exists (select from pgonce_job_schedules s where s.job_name = v_text)
                                                 or exists (select from cron_job_runs r where r.job_name = v_text))
    union all select 'import', s.seed_name, null from seed_checkpoints s where s.seed_name = v_text
    union all (select 'type', v_text, null from pgonce_webhook_types(v_text, 1));
  if found then return; end if;
  if length(v_text) >= 8 and starts_with(v_text, 'evt_') then
    return query select 'webhook', m, null::text from pgonce_match_webhooks(rtrim(v_text, '…')) m;
  elsif v_text ~* '^[0-9a-f]{8}[0-9a-f-]{0,27}…?$' then
    v_text := replace(rtrim(v_text, '…'), '-', '');
    return query select 'run', r.id::text, r.job_name
                 from pgonce_match_job_runs(rpad(left(v_text, 32), 32, '0')::uuid, rpad(left(v_text, 32), 32, 'f')::uuid) m
                 join cron_job_runs r on r.id = m;
  elsif p_emails and v_text ~ '^\S+@\S+$' then
    return query
      with read as materialized (
        select n.customer_id, n.object
        from unnest(array['customer.created', 'customer.updated', 'checkout.session.completed', 'invoice.paid',
                          'invoice.payment_failed', 'charge.succeeded']) t (type)
        cross join lateral (
          select e.customer_id, e.payload #> '{data,object}' as object from webhook_events e
          where e.event_type = t.type order by e.received_at desc limit 500) n)
      select distinct 'customer', r.customer_id, 'has this e-mail address' from read r
      where r.customer_id is not null and lower(v_text) in (
        lower(r.object ->> 'email'), lower(r.object ->> 'customer_email'), lower(r.object ->> 'receipt_email'),
        lower(r.object #>> '{customer_details,email}'), lower(r.object #>> '{billing_details,email}'))
      limit 10;
  end if;
end $$;
comment on function pgonce_console_find(text, boolean) is
  'pgonce: what this text names: an event, a run, a customer or another object of Stripe''s, an account, a job, an import, or a type '
  'of event (a glob). Only whole names are looked up, and the beginning of the id of an event or a run. p_emails: an e-mail address is '
  'looked for in the newest 500 events of each of six types that have the customer''s.';
