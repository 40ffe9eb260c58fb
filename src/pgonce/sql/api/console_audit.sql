-- What people have done. A function that does something for a person calls pgonce_audit_write in its own transaction, so the
-- two are committed together: there is no action without its row.

create or replace function pgonce_audit_write(
  p_action text, p_noun text, p_object text, p_before text default null, p_after text default null, p_reason text default null,
  p_session uuid default null, p_actor text default null, p_source text default 'sql', p_address text default '',
  p_refused boolean default false, p_detail jsonb default '{}')
returns bigint
language plpgsql set search_path from current as $$
declare
  s pgonce_console_sessions;
  v_id bigint;
begin
  if coalesce(p_action, '') = '' or coalesce(p_noun, '') = '' then
    raise sqlstate '22023' using message = 'the audit needs an action and a noun';
  end if;
  if p_session is not null then
    select * into s from pgonce_console_sessions where id = p_session;
    if not found then raise sqlstate 'PT403' using message = 'this session has ended: log in again'; end if;
  elsif coalesce(p_actor, '') = '' then
    raise sqlstate '22023' using message = 'the audit needs a session or an actor';
  end if;
  insert into pgonce_audit (actor, source, address, session, action, noun, object, before, after, reason, refused, detail)
  values (coalesce(s.name, p_actor), case when s.id is null then p_source when s.source = 'cli' then 'cli' else 'console' end,
          coalesce(s.address, p_address, ''), s.id, p_action, p_noun, left(coalesce(p_object, ''), 1000), left(p_before, 1000),
          left(p_after, 1000), left(nullif(p_reason, ''), 1000), p_refused, coalesce(p_detail, '{}'))
  returning id into v_id;
  return v_id;
end $$;
comment on function pgonce_audit_write(text, text, text, text, text, text, uuid, text, text, text, boolean, jsonb) is
  'pgonce: records what a person did, in the transaction that does it. p_session: who, of the console or the command line; '
  'without one p_actor, p_source and p_address say it. p_refused: it was not done. Returns the number of the row.';

-- Planned at each call, because each filter has an index of its own.
create or replace function pgonce_console_audit(
  p_object text default null, p_actor text default null, p_action text default null, p_before timestamptz default null,
  p_before_id bigint default null, p_limit integer default 50)
returns table (id bigint, at timestamptz, actor text, source text, address text, session uuid, action text, noun text,
               object text, before text, after text, reason text, refused boolean, detail jsonb)
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
begin
  return query
    select a.id, a.at, a.actor, a.source, a.address, a.session, a.action, a.noun, a.object, a.before, a.after, a.reason,
           a.refused, a.detail
    from pgonce_audit a
    where (p_object is null or a.object = p_object) and (p_actor is null or a.actor = p_actor)
      and (p_action is null or a.action = p_action)
      and (p_before is null or (a.at, a.id) < (p_before, coalesce(p_before_id, 0)))
    order by a.at desc, a.id desc
    limit least(p_limit, 10000);
end $$;
comment on function pgonce_console_audit(text, text, text, timestamptz, bigint, integer) is
  'pgonce: what people have done, newest first. p_before and p_before_id: at and id of the last row of the page before. At most 10,000 rows.';

create or replace function pgonce_console_audit_choices() returns table (actors text[], actions text[])
language sql stable set search_path from current as $$
  -- the distinct values by one index lookup each
  with recursive
  actors as (
    (select a.actor as v, 1 as n from pgonce_audit a order by a.actor limit 1)
    union all
    select (select a.actor from pgonce_audit a where a.actor > s.v order by a.actor limit 1), s.n + 1
    from actors s where s.v is not null and s.n < 100),
  actions as (
    (select a.action as v, 1 as n from pgonce_audit a order by a.action limit 1)
    union all
    select (select a.action from pgonce_audit a where a.action > s.v order by a.action limit 1), s.n + 1
    from actions s where s.v is not null and s.n < 100)
  select array(select v from actors where v is not null), array(select v from actions where v is not null)
$$;
comment on function pgonce_console_audit_choices() is
  'pgonce: the people and the actions that the audit has, for a choice of filters: at most 100 of each.';
