-- What the console shows of replays, and its actions: each looks up the role of the session, and writes the audit.

create or replace function pgonce_console_replays(p_id bigint default null, p_limit integer default 20)
returns table (id bigint, status text, who text, why text, filter jsonb, plan jsonb, planned_at timestamptz, started_at timestamptz,
               ended_at timestamptz, stopped_by text, at_once integer, events integer, counts jsonb)
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
  return query
    select r.id, r.status, r.who, r.why, r.filter, r.plan, r.planned_at, r.started_at, r.ended_at, r.stopped_by, r.at_once,
           coalesce((select sum(c.n) from jsonb_each_text(s.counts) as e (k, v) cross join lateral (select e.v::integer as n) c), 0)::integer,
           coalesce(s.counts, '{}')
    from (select * from pgonce_replays o
          where case when p_id is null then o.started_at is not null else o.id = p_id end order by o.id desc limit p_limit) r
    cross join lateral (
      select jsonb_object_agg(n.state, n.n) as counts
      from (select i.state, count(*) as n from pgonce_replay_items i where i.replay_id = r.id group by 1) n) s
    order by r.id desc;
end $$;
comment on function pgonce_console_replays(bigint, integer) is
  'pgonce: one replay, or the newest that were started, with how many of their events are in each state.';

create or replace function pgonce_console_replay_items(
  p_id bigint, p_state text default null, p_after integer default 0, p_limit integer default 50)
returns table (place integer, stripe_event_id text, event_type text, object_id text, seen_state text, state text, now text,
               reason text, queued_at timestamptz, settled_at timestamptz, earlier integer)
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
  return query
    with page as materialized (
      select * from pgonce_replay_items i
      where i.replay_id = p_id and i.position > p_after and (p_state is null or i.state = p_state)
      order by i.position limit least(p_limit, 10000))
    select p.position, p.stripe_event_id, e.event_type, e.object_id, p.seen_status, p.state,
           pgonce_webhook_state(e.status, e.next_attempt_at, e.lease),
           case e.status when 'ignored' then e.ignored_reason when 'succeeded' then null
                         else pgonce_error_line(e.error_message) end,
           p.queued_at, p.settled_at,
           (row_number() over (partition by coalesce(e.object_id, p.stripe_event_id) order by p.position) - 1)::integer
    from page p left join webhook_events e on e.id = p.event_id order by p.position;
end $$;
comment on function pgonce_console_replay_items(bigint, text, integer, integer) is
  'pgonce: the events of a replay in their order, after the position p_after: as they were seen, what has become of them in the '
  'replay, and their state now. earlier: how many events of the same object stand before it on this page.';

create or replace function pgonce_console_plan_replay(
  p_session uuid, p_filter jsonb, p_reason text default null, p_limit integer default 10000, p_at_once integer default 200)
returns bigint
language plpgsql set search_path from current as $$
begin
  return pgonce_plan_replay(p_filter, pgonce_console_operator(p_session), p_reason, p_limit, p_at_once);
end $$;
comment on function pgonce_console_plan_replay(uuid, jsonb, text, integer, integer) is
  'pgonce: pgonce_plan_replay for an operator of the console: PT403 for anybody else. No event changes, so the audit has no row of it.';

-- The number is typed by a person who has read what will happen: for more than 20 events, and for any that has succeeded, because
-- its effect happens again.
create or replace function pgonce_console_start_replay(p_session uuid, p_id bigint, p_confirm integer default null, p_reason text default null)
returns boolean
language plpgsql set search_path from current as $$
declare
  v_who text := pgonce_console_operator(p_session);
  r pgonce_replays;
  v_events integer;
begin
  select * into r from pgonce_replays where id = p_id for update;
  if not found then
    raise sqlstate 'PT404' using message = format('there is no replay %s', p_id);
  elsif r.who <> v_who then
    raise sqlstate 'PT403' using message = format('replay %s was planned by %s: plan it yourself', p_id, r.who);
  end if;
  v_events := (r.plan ->> 'events')::integer;
  if (v_events > 20 or (r.plan ->> 'succeeded')::integer > 0) and p_confirm is distinct from v_events then
    raise sqlstate '22023' using message = format('type the number of events, %s, to confirm the replay', v_events);
  end if;
  if not pgonce_start_replay(p_id, p_reason) then return false; end if;
  perform pgonce_audit_write(
    'replay', 'webhook',
    case v_events when 1 then (select i.stripe_event_id from pgonce_replay_items i where i.replay_id = p_id) else 'replay ' || p_id::text end,
    p_before => (select string_agg(s.n::text || ' ' || s.seen_status, ', ' order by s.n desc) from (
      select i.seen_status, count(*) as n from pgonce_replay_items i where i.replay_id = p_id group by 1) s),
    p_after => 'queued', p_reason => coalesce(nullif(p_reason, ''), r.why), p_session => p_session,
    p_detail => jsonb_build_object('replay', p_id, 'filter', r.filter));
  return true;
end $$;
comment on function pgonce_console_start_replay(uuid, bigint, integer, text) is
  'pgonce: pgonce_start_replay for the operator who has planned it, with its row in the audit. p_confirm: the number of events, for '
  'more than 20 of them, or if any has succeeded before; another number raises 22023.';

create or replace function pgonce_console_stop_replay(p_session uuid, p_id bigint, p_reason text default null) returns boolean
language plpgsql set search_path from current as $$
declare
  v_who text := pgonce_console_operator(p_session);
  v_before text := (select r.status from pgonce_replays r where r.id = p_id);
begin
  if not pgonce_stop_replay(p_id, v_who) then return false; end if;
  perform pgonce_audit_write('stop', 'webhook', 'replay ' || p_id::text, p_before => v_before, p_after => 'stopped', p_reason => p_reason,
                             p_session => p_session, p_detail => jsonb_build_object('replay', p_id));
  return true;
end $$;
comment on function pgonce_console_stop_replay(uuid, bigint, text) is
  'pgonce: pgonce_stop_replay for an operator of the console, with its row in the audit.';
