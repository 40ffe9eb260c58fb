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
  insert into pgonce_seed_rejects (seed_name, partition, row_number, cursor, row, line, sqlstate, error)
  select p_seed_name, p_partition, r.row_number, r.cursor, r.row, decode(r.line, 'hex'), r.sqlstate, r.error
  from jsonb_to_recordset(p_rejects) as r(row_number bigint, cursor jsonb, row jsonb, line text, sqlstate text, error text);
  return (select count(*) from pgonce_seed_rejects where seed_name = p_seed_name);
end $$;
comment on function pgonce_reject_seed_rows(text, jsonb, text) is
  'pgonce: stores rows that the table refused. p_rejects is an array of {row_number, cursor, row, line, sqlstate, error}. '
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
  update seed_checkpoints
  set rows_rejected = rows_rejected - 1, rows_inserted = pgonce_add_count(rows_inserted, p_rows_inserted),
      rows_skipped = pgonce_add_count(rows_skipped, p_rows_skipped), rows_updated = rows_updated + p_rows_updated,
      total_rejected = total_rejected - 1, total_inserted = total_inserted + p_rows_inserted,
      total_skipped = total_skipped + p_rows_skipped, total_updated = total_updated + p_rows_updated, last_updated_at = clock_timestamp()
  where seed_name = r.seed_name;
  update pgonce_seed_partitions
  set rows_rejected = rows_rejected - 1, rows_inserted = pgonce_add_count(rows_inserted, p_rows_inserted),
      rows_skipped = pgonce_add_count(rows_skipped, p_rows_skipped), rows_updated = rows_updated + p_rows_updated,
      total_rejected = total_rejected - 1, total_inserted = total_inserted + p_rows_inserted,
      total_skipped = total_skipped + p_rows_skipped, total_updated = total_updated + p_rows_updated, last_updated_at = clock_timestamp()
  where seed_name = r.seed_name and partition = r.partition;
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

create or replace function pgonce_set_seed_proof(p_seed_name text, p_verified jsonb) returns setof seed_checkpoints
language sql set search_path from current as $$
  update seed_checkpoints set verified = p_verified where seed_name = p_seed_name returning *
$$;
comment on function pgonce_set_seed_proof(text, jsonb) is
  'pgonce: stores the result of a comparison of table and source with the checkpoint.';

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
  update seed_checkpoints set rows_total = p_rows_total where seed_name = p_seed_name and rows_total is distinct from p_rows_total
$$;
comment on function pgonce_set_seed_total(text, bigint) is
  'pgonce: stores how many rows the seed''s source reports; null if the source does not know.';

create or replace function pgonce_get_seeds() returns setof seed_checkpoints
language sql stable set search_path from current as $$
  select * from seed_checkpoints order by last_updated_at desc, seed_name
$$;
comment on function pgonce_get_seeds() is 'pgonce: the checkpoints of all seeds, newest first.';
