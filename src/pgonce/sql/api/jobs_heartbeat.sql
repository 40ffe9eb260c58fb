-- What is a sign of life of a run: a heartbeat in its row or in pgonce_job_heartbeats, or a lock of its row.

create or replace function pgonce_last_heartbeat(p_run_id uuid, p_heartbeat_at timestamptz) returns timestamptz
language sql stable set search_path from current as $$
  select greatest(p_heartbeat_at, (select heartbeat_at from pgonce_job_heartbeats where run_id = p_run_id))
$$;
comment on function pgonce_last_heartbeat(uuid, timestamptz) is
  'pgonce: the last heartbeat of a run with this heartbeat_at in its row: the run may keep its heartbeats in pgonce_job_heartbeats.';

-- xmax is the transaction that has locked or changed the row. It is in pg_locks until it ends.
create or replace function pgonce_is_job_run_locked(p_run_id uuid) returns boolean
language sql stable set search_path from current as $$
  select exists (
    select from cron_job_runs r join pg_catalog.pg_locks l on l.locktype = 'transactionid' and l.transactionid = r.xmax
    where r.id = p_run_id and l.pid is distinct from pg_catalog.pg_backend_pid())
$$;
comment on function pgonce_is_job_run_locked(uuid) is
  'pgonce: whether an open transaction of another session has locked the row of a run, as run_job does while its command runs.';

-- run_job keeps the row locked while its command runs: whoever wants to stop or end that run would wait for the end of the command.
create or replace function pgonce_lock_job_run(p_run_id uuid) returns void
language plpgsql set search_path from current set lock_timeout = '3s' as $$
declare
  v_pid integer;
  v_role text;
begin
  perform from cron_job_runs where id = p_run_id for no key update;
exception when lock_not_available then
  select a.pid, a.usename into v_pid, v_role
  from cron_job_runs r join pg_catalog.pg_locks l on l.locktype = 'transactionid' and l.transactionid = r.xmax and l.granted
  join pg_catalog.pg_stat_activity a on a.pid = l.pid where r.id = p_run_id limit 1;
  raise sqlstate 'PT409' using message = format('run %s is at work inside the database, in an open transaction, and reads no request%s', p_run_id,
    '; the role ' || v_role || ' may end it, by `pgonce job end` or by select pg_terminate_backend(' || v_pid::text || ')');
end $$;
comment on function pgonce_lock_job_run(uuid) is
  'pgonce: locks the row of a run. PT409 = another transaction has had it locked for 3 s, as run_job has while its command runs. The '
  'message names its session.';

create or replace function pgonce_has_heartbeat(p_run_id uuid, p_window interval) returns boolean
language sql stable set search_path from current as $$
  select exists (select from pgonce_job_heartbeats where run_id = p_run_id and heartbeat_at + p_window > clock_timestamp())
      or pgonce_is_job_run_locked(p_run_id)
$$;
comment on function pgonce_has_heartbeat(uuid, interval) is
  'pgonce: whether a run without a heartbeat in its row is alive: it has sent one to pgonce_job_heartbeats within its window, or its '
  'row is locked.';

create or replace function pgonce_correct_heartbeats() returns void
language plpgsql set search_path from current as $$
begin
  update pgonce_job_heartbeats set heartbeat_at = clock_timestamp() where run_id in (
    select run_id from pgonce_job_heartbeats where heartbeat_at > clock_timestamp() + interval '1 minute' for update skip locked);
  -- Not where only the run's own transactions may update its row, see pgonce_keep_heartbeats_apart.
  update cron_job_runs set heartbeat_at = clock_timestamp() where id in (
    select id from cron_job_runs where status = 'running' and heartbeat_at > clock_timestamp() + interval '1 minute'
      and id not in (select run_id from pgonce_job_heartbeats)
    for update skip locked);
end $$;
comment on function pgonce_correct_heartbeats() is
  'pgonce: takes heartbeats that lie ahead, because the clock was set back, for heartbeats of now. Without that a dead run would '
  'seem to be alive until the clock has caught up.';
