-- pgonce_seed_rejects has the rows that the table refused, written in the transaction of their batch. This file also has what
-- an operator does with a seed. A seed is "running" while a run of job seed_runner with its name as key (or "name/partition")
-- sends heartbeats.
--
-- transitions
-- from    | verb                    | to      | because
-- absent  | pgonce_reject_seed_rows | stored  | the row is stored with its cursor and the reason
-- stored  | pgonce_reject_seed_rows | stored  | the same row in another batch is stored as another reject
-- stored  | pgonce_resolve_reject   | absent  | the table has it now: its count moves to inserted, updated or skipped
-- absent  | pgonce_resolve_reject   | false   | it was resolved already
-- unknown | pgonce_pause_seed       | PT404   | it has never run, and no runner is importing it
-- running | pgonce_pause_seed       | paused  | the runner stops after its batch
-- idle    | pgonce_pause_seed       | paused  | the next run does not begin
-- paused  | pgonce_pause_seed       | paused  | the time of the first pause is kept
-- unknown | pgonce_resume_seed      | PT404   | it has never run
-- running | pgonce_resume_seed      | running | it was not paused: nothing changes
-- idle    | pgonce_resume_seed      | idle    | it was not paused: nothing changes
-- paused  | pgonce_resume_seed      | idle    | the next run resumes at the checkpoint
-- unknown | pgonce_reset_seed       | false   | there is nothing to delete
-- running | pgonce_reset_seed       | PT409   | a runner is importing it
-- idle    | pgonce_reset_seed       | unknown | checkpoint, partitions and rejects are deleted; the rows in the table stay
-- paused  | pgonce_reset_seed       | unknown | the pause is deleted with the checkpoint

create or replace function pgonce_reject_seed_rows(p_seed_name text, p_rejects jsonb, p_partition text default '') returns bigint
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  insert into pgonce_seed_rejects (seed_name, partition, row_number, cursor, row, line, sqlstate, error, reason, column_name)
  select p_seed_name, p_partition, r.row_number, r.cursor, r.row, decode(r.line, 'hex'), r.sqlstate, r.error, r.reason, r.column_name
  from jsonb_to_recordset(p_rejects) as r(
    row_number bigint, cursor jsonb, row jsonb, line text, sqlstate text, error text, reason text, column_name text);
  return (select count(*) from pgonce_seed_rejects where seed_name = p_seed_name);
end $$;
comment on function pgonce_reject_seed_rows(text, jsonb, text) is
  'pgonce: stores rows that the table refused. p_rejects is an array of {row_number, cursor, row, line, sqlstate, error, '
  'reason, column_name}. '
  'Returns the number of rejects that the seed has now. Call it in the transaction that writes the good rows.';

create or replace function pgonce_count_rejects(p_seed_name text) returns bigint
language sql stable set search_path from current as $$
  select count(*) from pgonce_seed_rejects where seed_name = p_seed_name
$$;
comment on function pgonce_count_rejects(text) is 'pgonce: how many rejected rows the seed has, those of its partitions included.';

create or replace function pgonce_get_rejects(p_seed_name text, p_after bigint default 0, p_limit integer default 1000)
returns setof pgonce_seed_rejects
language sql stable set search_path from current as $$
  select * from pgonce_seed_rejects where seed_name = p_seed_name and id > p_after order by id limit p_limit
$$;
comment on function pgonce_get_rejects(text, bigint, integer) is 'pgonce: the seed''s rejected rows after id p_after, oldest first.';

create or replace function pgonce_resolve_reject(
  p_id bigint, p_rows_inserted integer default 0, p_rows_skipped integer default 0, p_rows_updated integer default 0)
returns boolean
language plpgsql set search_path from current as $$
declare
  r pgonce_seed_rejects;
begin
  delete from pgonce_seed_rejects where id = p_id returning * into r;
  if not found then return false; end if;
  -- the part before the seed, as in pgonce_advance_partition
  update pgonce_seed_partitions
  set rows_rejected = rows_rejected - 1, rows_inserted = pgonce_add_count(rows_inserted, p_rows_inserted),
      rows_skipped = pgonce_add_count(rows_skipped, p_rows_skipped), rows_updated = rows_updated + p_rows_updated,
      total_rejected = total_rejected - 1, total_inserted = total_inserted + p_rows_inserted,
      total_skipped = total_skipped + p_rows_skipped, total_updated = total_updated + p_rows_updated, last_updated_at = clock_timestamp()
  where seed_name = r.seed_name and partition = r.partition;
  update seed_checkpoints
  set rows_rejected = rows_rejected - 1, rows_inserted = pgonce_add_count(rows_inserted, p_rows_inserted),
      rows_skipped = pgonce_add_count(rows_skipped, p_rows_skipped), rows_updated = rows_updated + p_rows_updated,
      total_rejected = total_rejected - 1, total_inserted = total_inserted + p_rows_inserted,
      total_skipped = total_skipped + p_rows_skipped, total_updated = total_updated + p_rows_updated, verified = null,
      last_updated_at = clock_timestamp()
  where seed_name = r.seed_name;
  return true;
end $$;
comment on function pgonce_resolve_reject(bigint, integer, integer, integer) is
  'pgonce: deletes a reject whose row was written to the table later, or whose key is in the table now, and corrects the '
  'seed''s counts. false = it was resolved already. Call it in the transaction that writes the row.';

create or replace function pgonce_get_runners(p_seed_name text) returns table (run_id uuid, key text, scope jsonb, alive boolean)
language sql stable set search_path from current as $$
  select id, key, scope, heartbeat_at + run_window > clock_timestamp() or pgonce_has_heartbeat(id, run_window) from cron_job_runs
  where job_name = 'seed_runner' and status = 'running'
    and (key = p_seed_name or left(key, length(p_seed_name) + 1) = p_seed_name || '/')
    and coalesce(scope ->> 'seed_name', p_seed_name) = p_seed_name  -- not that of another seed whose name has a slash
$$;
comment on function pgonce_get_runners(text) is 'pgonce: the runs that import the seed or one of its partitions.';

create or replace function pgonce_pause_seed(p_seed_name text) returns setof seed_checkpoints
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  -- during its first run a seed has a runner before it has a checkpoint
  insert into seed_checkpoints (seed_name) select p_seed_name where exists (select from pgonce_get_runners(p_seed_name) where alive)
  on conflict (seed_name) do nothing;
  return query
    update seed_checkpoints set paused_at = coalesce(paused_at, clock_timestamp()) where seed_name = p_seed_name returning *;
  if not found then
    raise sqlstate 'PT404' using message = format('the seed %L has never run here', p_seed_name);
  end if;
end $$;
comment on function pgonce_pause_seed(text) is
  'pgonce: asks the seed''s runner to stop after its batch. No other run starts until pgonce_resume_seed. Returns the seed''s '
  'row. PT404 = it has never run.';

create or replace function pgonce_resume_seed(p_seed_name text) returns setof seed_checkpoints
language plpgsql set search_path from current as $$
begin
  return query update seed_checkpoints set paused_at = null where seed_name = p_seed_name returning *;
  if not found then
    raise sqlstate 'PT404' using message = format('the seed %L has never run here', p_seed_name);
  end if;
end $$;
comment on function pgonce_resume_seed(text) is 'pgonce: undoes pgonce_pause_seed; the next run resumes at the checkpoint. Returns the seed''s row.';

create or replace function pgonce_reset_seed(p_seed_name text) returns boolean
language plpgsql set search_path from current as $$
declare
  v_run uuid;
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  select run_id into v_run from pgonce_get_runners(p_seed_name) where alive;
  if found then
    raise sqlstate 'PT409' using message = format('run %s is at work on the seed %s', v_run, p_seed_name),
      hint = 'pause it first, or wait until it has ended';
  end if;
  delete from pgonce_seed_rejects where seed_name = p_seed_name;
  delete from pgonce_seed_batches where seed_name = p_seed_name;
  delete from pgonce_seed_partitions where seed_name = p_seed_name;
  delete from seed_checkpoints where seed_name = p_seed_name;
  return found;
end $$;
comment on function pgonce_reset_seed(text) is
  'pgonce: deletes the seed''s checkpoint, partitions and rejects, so that it begins at the start. Its rows in the table stay. '
  'false = it has never run. PT409 = a runner is importing it.';

create or replace function pgonce_set_seed_proof(p_seed_name text, p_verified jsonb, p_last_updated_at timestamptz)
returns setof seed_checkpoints
language sql set search_path from current as $$
  update seed_checkpoints set verified = p_verified where seed_name = p_seed_name and last_updated_at = p_last_updated_at returning *
$$;
comment on function pgonce_set_seed_proof(text, jsonb, timestamptz) is
  'pgonce: stores the result of a comparison of table and source with the checkpoint, if it was last updated at '
  'p_last_updated_at. No row = it has changed since the comparison began: compare again.';

create or replace function pgonce_release_runner(p_run_id uuid) returns boolean
language plpgsql set search_path from current as $$
begin
  -- if the row is locked, a transaction of the dead client is still running in the server
  perform from cron_job_runs where id = p_run_id and status = 'running' for update skip locked;
  if not found then return false; end if;
  perform pgonce_close_dead_run(p_run_id, 'its process has ended');
  return true;
end $$;
comment on function pgonce_release_runner(uuid) is
  'pgonce: closes a run as failed at once, without waiting for its window. The caller must know that the run''s process has '
  'ended. false = it is not running, or one of its transactions is still open.';

create or replace function pgonce_run_exists(p_run_id uuid) returns boolean
language sql stable set search_path from current as $$
  select exists (select from cron_job_runs where id = p_run_id)
$$;
comment on function pgonce_run_exists(uuid) is
  'pgonce: whether the run exists, in any state. false after a failover that lost its start.';

create or replace function pgonce_set_seed_total(p_seed_name text, p_rows_total bigint) returns void
language sql set search_path from current as $$
  insert into seed_checkpoints as s (seed_name, rows_total) values (p_seed_name, p_rows_total)
  on conflict (seed_name) do update set rows_total = excluded.rows_total where s.rows_total is distinct from excluded.rows_total
$$;
comment on function pgonce_set_seed_total(text, bigint) is
  'pgonce: stores how many rows the seed''s source reports; null if the source does not know. It creates the row if it is new.';

create or replace function pgonce_get_seeds() returns setof seed_checkpoints
language sql stable set search_path from current as $$
  select * from seed_checkpoints order by last_updated_at desc, seed_name
$$;
comment on function pgonce_get_seeds() is 'pgonce: the checkpoints of all seeds, newest first.';

create or replace function pgonce_group_seed_rejects(p_seed_name text)
returns table (reason text, column_name text, sqlstate text, rows bigint, first_row bigint, first_partition text)
language sql stable set search_path from current as $$
  select coalesce(r.reason, r.error), r.column_name, r.sqlstate, count(*), (array_agg(r.row_number order by r.id))[1],
    (array_agg(r.partition order by r.id))[1]
  from pgonce_seed_rejects r where r.seed_name = p_seed_name
  group by 1, 2, 3 order by 4 desc, min(r.id)
$$;
comment on function pgonce_group_seed_rejects(text) is
  'pgonce: the seed''s rejects by reason and column, the most frequent first, with the number of the first such row.';

create or replace function pgonce_note_seed_end(p_run_id uuid, p_outcome text, p_to_row bigint) returns boolean
language plpgsql set search_path from current as $$
begin
  update cron_job_runs set scope = coalesce(scope, '{}') || jsonb_build_object('outcome', p_outcome, 'to_row', p_to_row)
  where id = p_run_id and status = 'running';
  return found;
end $$;
comment on function pgonce_note_seed_end(uuid, text, bigint) is
  'pgonce: stores in the run''s scope how it ends (complete, stopped, paused, unfinished) and the row it has reached. false = the '
  'run is not running any more.';

create or replace function pgonce_get_seed_resumes(p_seed_name text, p_limit integer default 60)
returns table (run_id uuid, partition text, started_at timestamptz, from_row bigint, ended_at timestamptz, to_row bigint,
  outcome text, reason text, rows_written bigint, rows_left_out bigint, process text)
language sql stable set search_path from current as $$
  select r.id, nullif(substr(r.key, length(p_seed_name) + 2), ''), r.started_at, (r.scope->>'from_row')::bigint, r.completed_at,
    (r.scope->>'to_row')::bigint,
    case when r.status = 'succeeded' then coalesce(r.scope->>'outcome', 'complete')
      when r.status = 'failed' then coalesce(nullif(r.scope->>'outcome', 'complete'), 'failed') else r.status end,
    r.error_message, r.rows_processed::bigint, r.rows_skipped::bigint, r.process
  from cron_job_runs r
  where r.job_name = 'seed_runner' and r.status <> 'skipped' and r.scope->>'seed_name' = p_seed_name and not r.scope ? 'retries'
    and (r.key = p_seed_name or left(r.key, length(p_seed_name) + 1) = p_seed_name || '/')
  order by r.started_at desc, r.id limit p_limit
$$;
comment on function pgonce_get_seed_resumes(text, integer) is
  'pgonce: the runs of the seed and its partitions, the newest first: when and at which row each began and ended, and why. '
  'outcome: running, complete, stopped, paused, unfinished (the source ended too early) or failed; reason has the error. Runs are '
  'kept as long as those of any job.';

create or replace function pgonce_get_seed_batches(p_seed_name text, p_partition text default null)
returns table (partition text, batch bigint, rows bigint, committed_at timestamptz, took interval)
language sql stable set search_path from current as $$
  select b.partition, b.batch, b.rows, b.committed_at,
    pgonce_elapsed(lag(b.committed_at) over (partition by b.partition order by b.batch), b.committed_at)
  from pgonce_seed_batches b
  where b.seed_name = p_seed_name and (p_partition is null or b.partition = p_partition)
  order by b.committed_at, b.partition
$$;
comment on function pgonce_get_seed_batches(text, text) is
  'pgonce: the last 60 batches of the seed and of each of its partitions, oldest first. took = since the batch before; null for '
  'the oldest one that is kept. It includes the pause before a resume.';
