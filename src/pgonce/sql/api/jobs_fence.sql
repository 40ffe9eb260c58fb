-- The last statement of a run's transaction. The transaction commits only while the run still belongs to its process, and it
-- is numbered.
--
-- transitions
-- from      | verb                 | to        | because
-- absent    | pgonce_fence_job_run | PT404     | no such run
-- running   | pgonce_fence_job_run | running   | still yours: commit
-- stale     | pgonce_fence_job_run | running   | late, but nobody took it over
-- succeeded | pgonce_fence_job_run | false     | it has ended: roll back
-- failed    | pgonce_fence_job_run | false     | it has ended, or was taken over: roll back
-- skipped   | pgonce_fence_job_run | false     | it never ran: roll back

create or replace function pgonce_fence_job_run(
  p_run_id uuid, p_transactions integer default 0, p_rows_processed integer default null, p_rows_skipped integer default null,
  p_progress_done bigint default null, p_progress_total bigint default null) returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
declare
  v_number integer;
begin
  update cron_job_runs
  set heartbeat_at = clock_timestamp(), transactions = transactions + 1, rows_processed = coalesce(p_rows_processed, rows_processed),
      rows_skipped = coalesce(p_rows_skipped, rows_skipped), progress_done = coalesce(p_progress_done, progress_done),
      progress_total = coalesce(p_progress_total, progress_total), progress_at = clock_timestamp()
  where id = p_run_id and status || '' = 'running'
  returning transactions into v_number;
  if found then
    if v_number > p_transactions then return true; end if;
    raise sqlstate 'PT409' using message = format(
      'run %s: the database has only %s of its %s transactions: it has lost commits in a failover, and the run must be repeated',
      p_run_id, v_number - 1, p_transactions);
  end if;
  if not exists (select from cron_job_runs where id = p_run_id) then
    raise sqlstate 'PT404' using message = format('there is no job run %s', p_run_id);
  end if;
  return false;
end $$;
comment on function pgonce_fence_job_run(uuid, integer, integer, integer, bigint, bigint) is
  'pgonce: the last statement of a transaction of a run. true = the run is still yours: commit. false = roll back. p_transactions: how '
  'many transactions of the run have been confirmed to you; PT409 = the database has fewer, because a failover has lost some.';

create or replace function pgonce_keep_heartbeats_apart(p_run_id uuid) returns boolean
language plpgsql set search_path from current set enable_seqscan = off as $$
begin
  -- This waits for a heartbeat that is being written to the run's row. The next heartbeat finds the row below and updates
  -- that one. So a transaction that begins after this function has returned sees the last heartbeat that is ever written to
  -- the run's row.
  perform from cron_job_runs where id = p_run_id for update;
  insert into pgonce_job_heartbeats (run_id) values (p_run_id) on conflict do nothing;
  delete from pgonce_job_heartbeats h using cron_job_runs r where r.id = h.run_id and r.status <> 'running';
  return true;
end $$;
comment on function pgonce_keep_heartbeats_apart(uuid) is
  'pgonce: from now on the run''s heartbeats do not update its row. So the run''s own transactions can update it, at any '
  'isolation level.';
