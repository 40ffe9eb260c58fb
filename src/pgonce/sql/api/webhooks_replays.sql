-- Replays: many events are replayed as one object. It is planned first: the events are written down as they are seen, and
-- nothing else changes. Then it is started, and workers queue the events in steps, the oldest first. An event that has changed
-- since it was seen is left as it is. A replay has ended when each of its events has an outcome.
--
-- transitions
-- from     | verb                | to       | because
-- absent   | pgonce_start_replay | PT404    | no such replay
-- planned  | pgonce_start_replay | running  | a person has seen what will happen
-- running  | pgonce_start_replay | false    | it was started already
-- stopping | pgonce_start_replay | false    | it was started already
-- done     | pgonce_start_replay | false    | it has ended
-- stopped  | pgonce_start_replay | false    | it was stopped: plan another one
-- absent   | pgonce_stop_replay  | PT404    | no such replay
-- planned  | pgonce_stop_replay  | stopped  | it will not be started
-- running  | pgonce_stop_replay  | stopping | no further event is queued; those that are queued are handled
-- stopping | pgonce_stop_replay  | false    | it was stopped already
-- done     | pgonce_stop_replay  | false    | it has ended
-- stopped  | pgonce_stop_replay  | false    | it was stopped already
-- absent   | pgonce_step_replays | none     | nothing to do
-- planned  | pgonce_step_replays | none     | nobody has started it
-- running  | pgonce_step_replays | running  | some events are queued, or have got their outcomes
-- handled  | pgonce_step_replays | done     | each of its events has an outcome
-- stopping | pgonce_step_replays | none     | those that are queued are not handled yet
-- halted   | pgonce_step_replays | stopped  | each event that was queued has an outcome
-- done     | pgonce_step_replays | none     | it has ended
-- stopped  | pgonce_step_replays | none     | it was stopped

create or replace function pgonce_plan_replay(
  p_filter jsonb, p_who text, p_why text default null, p_limit integer default 10000, p_at_once integer default 200)
returns bigint
language plpgsql set search_path from current as $$
declare
  v_id bigint;
  v_plan jsonb;
begin
  if coalesce(p_who, '') = '' then
    raise sqlstate '22023' using message = 'a replay needs the name of who asks for it';
  elsif coalesce(p_limit, 0) < 1 or p_at_once < 1 then
    raise sqlstate '22023' using message = 'the limits must be at least 1';
  end if;
  delete from pgonce_replays where id in (
    select id from pgonce_replays
    where status = 'planned' and planned_at < clock_timestamp() - interval '1 day'
       or status in ('done', 'stopped') and planned_at < clock_timestamp() - interval '180 days'
    order by id limit 100 for update skip locked);
  insert into pgonce_replays (who, why, filter, at_once) values (p_who, nullif(p_why, ''), p_filter, p_at_once) returning id into v_id;
  insert into pgonce_replay_items (replay_id, position, event_id, stripe_event_id, seen_status, seen_lease)
  select v_id, row_number() over (order by e.received_at, e.id), e.id, e.stripe_event_id, e.status, e.lease
  from pgonce_find_webhooks(p_filter, p_limit, p_scan => 1000000) f join webhook_events e on e.id = f.id
  -- an event that is not finished is replayed only if it is named: its client may have died
  where not f.scanned and (e.status <> 'processing' or p_filter ? 'ids');
  select pgonce_plan_of_replay(v_id, p_limit) into v_plan;
  if v_plan is null then
    delete from pgonce_replays where id = v_id;
    return null;
  end if;
  update pgonce_replays set plan = v_plan where id = v_id;
  return v_id;
end $$;
comment on function pgonce_plan_replay(jsonb, text, text, integer, integer) is
  'pgonce: writes down the newest p_limit events that match a filter (as for pgonce_find_webhooks), to be replayed by '
  'pgonce_start_replay. No event changes. p_at_once: at most this many are queued and not handled yet; null: any number. Returns '
  'the number of the replay; null = no event matches. A replay that is not started within a day is deleted.';

create or replace function pgonce_plan_of_replay(p_id bigint, p_limit integer default null) returns jsonb
language sql stable set search_path from current as $$
  with seen as materialized (
    select i.seen_status, e.event_type, e.customer_id, e.object_id, e.received_at, e.processed_at, e.queued, e.next_attempt_at
    from pgonce_replay_items i join webhook_events e on e.id = i.event_id where i.replay_id = p_id),
  types as materialized (
    select s.event_type as type, count(*) as events, max(s.processed_at) filter (where s.seen_status = 'failed') as failed_at,
           pgonce_has_live_handler(s.event_type) as has_handler
    from seen s group by 1)
  select jsonb_build_object(
    'events', count(*), 'succeeded', count(*) filter (where s.seen_status = 'succeeded'),
    'failed', count(*) filter (where s.seen_status = 'failed'), 'ignored', count(*) filter (where s.seen_status = 'ignored'),
    'processing', count(*) filter (where s.seen_status = 'processing'), 'customers', count(distinct s.customer_id),
    'objects', count(distinct s.object_id), 'oldest', min(s.received_at), 'newest', max(s.received_at), 'more', count(*) = p_limit,
    'types', (select jsonb_agg(jsonb_build_object('type', t.type, 'events', t.events, 'has_handler', t.has_handler) order by t.events desc, t.type)
              from (select * from types order by events desc, type limit 20) t),
    'type_count', (select count(*) from types),
    -- every process with a handler for a failed type started before the failure, so it still runs the code that failed
    'same_code', exists (select from types t where t.failed_at is not null and t.has_handler) and not exists (
      select from types t join pgonce_live_processes p on p.does = 'events' and p.started_at > t.failed_at
        and exists (select from unnest(p.handlers) g where t.type ~ pgonce_glob_expression(g))
      where t.failed_at is not null))
  from seen s having count(*) > 0
$$;
comment on function pgonce_plan_of_replay(bigint, integer) is
  'pgonce: what a replay will do: how many events there are, of which status, types, customers and objects; null without events. '
  'same_code: the workers that are running had started before these events failed.';

create or replace function pgonce_start_replay(p_id bigint, p_why text default null) returns boolean
language plpgsql set search_path from current as $$
begin
  update pgonce_replays set status = 'running', started_at = clock_timestamp(), why = coalesce(nullif(p_why, ''), why)
  where id = p_id and status = 'planned';
  if not found then
    if exists (select from pgonce_replays where id = p_id) then return false; end if;
    raise sqlstate 'PT404' using message = format('there is no replay %s', p_id);
  end if;
  perform pgonce_step_replays(p_id);
  return true;
end $$;
comment on function pgonce_start_replay(bigint, text) is
  'pgonce: starts a planned replay, and takes the first step. false = it was started or stopped before.';

create or replace function pgonce_stop_replay(p_id bigint, p_who text) returns boolean
language plpgsql set search_path from current as $$
begin
  update pgonce_replays
  set status = case status when 'planned' then 'stopped' else 'stopping' end, stopped_by = p_who,
      ended_at = case status when 'planned' then clock_timestamp() end
  where id = p_id and status in ('planned', 'running');
  if not found and not exists (select from pgonce_replays where id = p_id) then
    raise sqlstate 'PT404' using message = format('there is no replay %s', p_id);
  end if;
  return found;
end $$;
comment on function pgonce_stop_replay(bigint, text) is
  'pgonce: stops a replay: no further event is queued. Those that are queued already are handled, and then it has stopped. false = it '
  'has ended, or was stopped before.';

-- Workers call this again and again. Each replay is one worker's at a time; the others skip it.
create or replace function pgonce_step_replays(p_id bigint default null, p_limit integer default 200) returns integer
language plpgsql set search_path from current set plan_cache_mode = force_generic_plan set enable_seqscan = off
set enable_hashjoin = off set enable_mergejoin = off as $$
#variable_conflict use_column
declare
  r pgonce_replays;
  v_settled integer;
  v_settled_to integer;
  v_room integer;
  v_seen record;
  v_queued text[];
  v_moved integer := 0;
  v_named record;
begin
  for r in
    -- in any order: the oldest ten may all be waiting for a handler that nobody runs
    select * from pgonce_replays o where o.status in ('running', 'stopping') and (p_id is null or o.id = p_id) order by random() limit 10
    for update skip locked
  loop
    -- The outcomes of those that are queued, 2,000 at a step and then the next ones.
    with queued as (
      select i.position, i.event_id from pgonce_replay_items i
      where i.replay_id = r.id and i.state = 'queued' and i.position > r.settled_to order by i.position limit 2000),
    ended as (
      select q.position, case when e.id is null then 'changed' else e.status end as state
      from queued q left join webhook_events e on e.id = q.event_id
      where e.id is null or e.status in ('succeeded', 'failed', 'ignored')),
    settled as (
      update pgonce_replay_items i set state = n.state, settled_at = clock_timestamp()
      from ended n where i.replay_id = r.id and i.position = n.position returning i.position)
    select (select count(*) from settled), (select case when count(*) = 2000 then max(q.position) else 0 end from queued q)
    into v_settled, v_settled_to;
    update pgonce_replays set settled_to = v_settled_to where id = r.id and settled_to <> v_settled_to;

    v_room := case when r.status = 'stopping' then 0 else least(p_limit, r.at_once - (
      select count(*) from (select from pgonce_replay_items i where i.replay_id = r.id and i.state = 'queued' limit r.at_once) n)) end;
    select array_agg(i.position order by i.position) as positions, array_agg(i.stripe_event_id order by i.position) as events,
           array_agg(i.seen_status order by i.position) as statuses, array_agg(i.seen_lease order by i.position) as leases
    into v_seen
    from (select * from pgonce_replay_items p where p.replay_id = r.id and p.state = 'planned' order by p.position
          limit greatest(coalesce(v_room, p_limit), 0)) i;
    if v_seen.positions is not null then
      v_queued := array(select pgonce_replay_webhooks(v_seen.events, v_seen.statuses, v_seen.leases, r.who, r.why, r.id));
      for v_named in
        select n.event from unnest(v_seen.events, v_seen.statuses) as n (event, status)
        where n.status = 'processing' and exists (select from webhook_events e where e.stripe_event_id = n.event and e.status = 'processing')
      loop
        begin
          if pgonce_replay_webhook(v_named.event, r.who, r.why) then v_queued := v_queued || v_named.event; end if;
          set constraints all immediate;
        exception when others then  -- a trigger refuses it: the others go on
          if not pgonce_is_refusal(sqlstate) then raise; end if;
          v_queued := array_remove(v_queued, v_named.event);
        end;
      end loop;
      update pgonce_replay_items i
      set state = case when i.stripe_event_id = any (v_queued) then 'queued' else 'changed' end, queued_at = clock_timestamp(),
          settled_at = case when i.stripe_event_id = any (v_queued) then null else clock_timestamp() end
      where i.replay_id = r.id and i.position = any (v_seen.positions);
    elsif v_settled_to = 0 and not exists (
        select from pgonce_replay_items i
        where i.replay_id = r.id and (i.state = 'queued' or i.state = 'planned' and r.status = 'running')) then
      update pgonce_replays set status = case r.status when 'running' then 'done' else 'stopped' end, ended_at = clock_timestamp()
      where id = r.id;
      v_moved := v_moved + 1;
    end if;
    v_moved := v_moved + v_settled + coalesce(cardinality(v_seen.positions), 0);
  end loop;
  return v_moved;
end $$;
comment on function pgonce_step_replays(bigint, integer) is
  'pgonce: takes one step in each running replay, or in one: records the outcomes of its queued events, and queues up to p_limit '
  'more. Workers call it. Returns how many events have moved; 0 = nothing to do for now.';
