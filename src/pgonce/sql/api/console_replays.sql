-- What the console shows of replays.

create or replace function pgonce_console_replays(p_id bigint default null, p_limit integer default 20)
returns table (id bigint, status text, who text, why text, filter jsonb, plan jsonb, planned_at timestamptz, started_at timestamptz,
               ended_at timestamptz, stopped_by text, events integer, counts jsonb)
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
begin
  return query
    select r.id, r.status, r.who, r.why, r.filter, r.plan, r.planned_at, r.started_at, r.ended_at, r.stopped_by,
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
                         else pgonce_error_line(right(e.error_message, 20000)) end,
           p.queued_at, p.settled_at,
           (row_number() over (partition by coalesce(e.object_id, p.stripe_event_id) order by p.position) - 1)::integer
    from page p left join webhook_events e on e.id = p.event_id order by p.position;
end $$;
comment on function pgonce_console_replay_items(bigint, text, integer, integer) is
  'pgonce: the events of a replay in their order, after the position p_after: as they were seen, what has become of them in the '
  'replay, and their state now. earlier: how many events of the same object stand before it on this page.';
