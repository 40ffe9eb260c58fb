-- Which processes run pgonce: one row for each service of a process (handling events, receiving, running jobs, alerting).
--
--   live  its last heartbeat is younger than a minute; a service sends one every 15 s
--   dead  older: it was killed, hangs, or cannot reach the database. The row stays for a day, so that it can be seen
--
-- transitions
-- from   | verb                    | to     | because
-- absent | pgonce_register_process | live   | a start
-- live   | pgonce_register_process | live   | repeated after a lost answer: the row is overwritten, started_at stays
-- dead   | pgonce_register_process | live   | its machine was suspended and is running again; started_at stays
-- absent | pgonce_beat_process     | false  | the row was deleted after a day without a heartbeat: register again
-- live   | pgonce_beat_process     | live   | a heartbeat
-- dead   | pgonce_beat_process     | live   | late, but the process is alive
-- absent | pgonce_end_process      | false  | it has ended already
-- live   | pgonce_end_process      | absent | a clean stop
-- dead   | pgonce_end_process      | absent | a clean stop, late

create or replace function pgonce_register_process(
  p_id uuid, p_does text, p_host text, p_pid integer, p_version text, p_app text default '', p_release text default '',
  p_digest text default '', p_handlers text[] default '{}', p_jobs text[] default '{}', p_capacity integer default null,
  p_started_at timestamptz default null, p_process uuid default null)
returns timestamptz
language plpgsql set search_path from current as $$
declare
  v_started_at timestamptz;
begin
  -- skip locked: two processes that start at the same time both clean up, and neither waits
  delete from pgonce_processes where id in (
    select id from pgonce_processes where last_seen_at < clock_timestamp() - interval '1 day' and id <> p_id for update skip locked);
  insert into pgonce_processes as p (id, process, does, host, pid, version, app, release, digest, handlers, jobs, capacity, started_at)
  values (p_id, coalesce(p_process, p_id), p_does, p_host, p_pid, p_version, p_app, p_release, p_digest, p_handlers, p_jobs, p_capacity,
          coalesce(p_started_at, clock_timestamp()))
  on conflict (id) do update
  set last_seen_at = clock_timestamp(), handlers = excluded.handlers, jobs = excluded.jobs, digest = excluded.digest
  returning started_at into v_started_at;
  if p_does = 'jobs' and p_started_at is null then
    insert into pgonce_job_releases (app, release, jobs)
    select p_app, n.release, p_jobs from (select coalesce(nullif(p_release, ''), left(p_digest, 7)) as release) n
    where n.release > '' and n.release is distinct from (
      select r.release from pgonce_job_releases r where r.app = p_app order by r.started_at desc limit 1)
    on conflict do nothing;
    delete from pgonce_job_releases where started_at < clock_timestamp() - interval '180 days';
  end if;
  return v_started_at;
end $$;
comment on function pgonce_register_process(uuid, text, text, integer, text, text, text, text, text[], text[], integer, timestamptz, uuid) is
  'pgonce: records that a service of a process has started, and returns the time of its start. p_does: events, receives, jobs '
  'or alerts. Rows without a heartbeat for a day are deleted. p_started_at: when it started, for one that registers again. p_process: '
  'the same for all services of a process, and for no other process; null = it has no other service.';

create or replace function pgonce_beat_process(p_id uuid, p_busy integer default 0, p_busy_with text[] default '{}') returns boolean
language plpgsql set search_path from current as $$
begin
  update pgonce_processes set last_seen_at = clock_timestamp(), busy = p_busy, busy_with = p_busy_with where id = p_id;
  if not found then return false; end if;
  -- After the clock was set back, a dead process would count as live until the clock has caught up.
  update pgonce_processes set last_seen_at = clock_timestamp() where id in (
    select id from pgonce_processes where last_seen_at > clock_timestamp() + interval '1 minute' for update skip locked);
  return true;
end $$;
comment on function pgonce_beat_process(uuid, integer, text[]) is
  'pgonce: records a heartbeat of a registered service, with how much it is doing now and what. false = there is no such '
  'row: register again.';

create or replace function pgonce_end_process(p_id uuid) returns boolean
language plpgsql set search_path from current as $$
begin
  delete from pgonce_processes where id = p_id;
  return found;
end $$;
comment on function pgonce_end_process(uuid) is 'pgonce: records a clean stop of a registered service: its row is deleted.';

create or replace view pgonce_live_processes as
select * from pgonce_processes
where last_seen_at between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute';
comment on view pgonce_live_processes is 'The services of processes that have sent a heartbeat within the last minute.';

create or replace function pgonce_count_live_processes(p_does text) returns bigint
language sql stable set search_path from current as $$
  select count(*) from pgonce_live_processes where does = p_does
$$;
comment on function pgonce_count_live_processes(text) is
  'pgonce: how many services of this kind (events, receives, jobs or alerts) have sent a heartbeat within the last minute.';

create or replace function pgonce_list_processes()
returns table (host text, pid integer, does text[], version text, app text, release text, outdated boolean, live boolean,
               handlers text[], jobs text[], busy integer, capacity integer, busy_with text[],
               started_at timestamptz, last_seen_at timestamptz, seen_ago interval)
language sql stable set search_path from current set jit = off as $$
  with newest as (
    select distinct on (p.app) p.app, p.release from pgonce_live_processes p
    where p.app <> '' order by p.app, p.started_at desc),
  newest_of_kind as (
    select distinct on (p.app, p.does) p.app, p.does, p.digest from pgonce_live_processes p
    where p.app <> '' order by p.app, p.does, p.started_at desc),
  marked as (
    -- the releases from PGONCE_RELEASE are compared; without one, the digests of the same kind of service
    select p.*, coalesce(p.release <> n.release or n.release = '' and p.digest <> k.digest, false) as outdated
    from pgonce_processes p left join newest n on n.app = p.app left join newest_of_kind k on k.app = p.app and k.does = p.does)
  select m.host, m.pid, array_agg(distinct m.does), max(m.version), max(m.app), max(coalesce(nullif(m.release, ''), left(m.digest, 7))),
         bool_or(m.outdated), max(m.last_seen_at) between clock_timestamp() - interval '1 minute' and clock_timestamp() + interval '1 minute',
         array(select distinct h from pgonce_processes o, unnest(o.handlers) h where o.process = m.process order by h),
         array(select distinct j from pgonce_processes o, unnest(o.jobs) j where o.process = m.process order by j),
         sum(m.busy)::integer, sum(m.capacity)::integer,
         array(select distinct b from pgonce_processes o, unnest(o.busy_with) b where o.process = m.process order by b),
         min(m.started_at), max(m.last_seen_at), greatest(clock_timestamp() - max(m.last_seen_at), '0')
  from marked m group by m.process, m.host, m.pid order by min(m.started_at), m.host, m.pid, m.process
$$;
comment on function pgonce_list_processes() is
  'pgonce: the processes of the last day, each with its services. outdated: its release differs from that of the newest start '
  'of its app.';
