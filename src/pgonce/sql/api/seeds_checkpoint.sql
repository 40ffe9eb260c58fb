-- seed_checkpoints: the progress of each import. Rows and checkpoint are written in one transaction.
--
-- transitions
-- from        | verb                | to          | because
-- absent      | get_checkpoint      | absent      | no row: the import begins at the start
-- in_progress | get_checkpoint      | in_progress | resume after last_checkpoint
-- complete    | get_checkpoint      | complete    | reading changes nothing
-- failed      | get_checkpoint      | failed      | resume after last_checkpoint
-- absent      | update_checkpoint   | in_progress | the first batch creates the row
-- in_progress | update_checkpoint   | in_progress | the counts are added
-- complete    | update_checkpoint   | in_progress | the import starts again
-- failed      | update_checkpoint   | in_progress | the resume made progress
-- absent      | pgonce_advance_seed | in_progress | the first batch (number 0) creates the row
-- in_progress | pgonce_advance_seed | in_progress | the expected batch
-- complete    | pgonce_advance_seed | in_progress | the import starts again
-- failed      | pgonce_advance_seed | in_progress | the resume made progress
-- repeated    | pgonce_advance_seed | none        | this batch was committed already: no row, nothing changes
-- lost        | pgonce_advance_seed | PT409       | the runner was replaced: roll back
-- in_parts    | pgonce_advance_seed | 22023       | the parts have brought its rows: it would bring them once more
-- absent      | pgonce_restart_seed | in_progress | the row is created, so that a resume finds this start
-- in_progress | pgonce_restart_seed | in_progress | cursor, counters and rejects are reset
-- complete    | pgonce_restart_seed | in_progress | cursor, counters and rejects are reset
-- failed      | pgonce_restart_seed | in_progress | cursor, counters and rejects are reset
-- lost        | pgonce_restart_seed | PT409       | the runner was replaced: roll back
-- absent      | complete_seed       | complete    | the import had no rows: it is complete at once
-- in_progress | complete_seed       | complete    | the import ends
-- complete    | complete_seed       | complete    | repeated after a lost answer
-- failed      | complete_seed       | complete    | the resume found nothing left to do
-- in_parts    | complete_seed       | 22023       | a part of it is not complete
-- absent      | fail_seed           | failed      | it failed before its first batch
-- in_progress | fail_seed           | failed      | the checkpoint stays: the next run resumes there
-- complete    | fail_seed           | complete    | a late failure does not undo a finished import
-- failed      | fail_seed           | failed      | the newest reason is kept
-- absent      | pgonce_leave_seed   | failed      | the source ended before its first whole row
-- in_progress | pgonce_leave_seed   | failed      | the source ended too early: the next run resumes at the checkpoint
-- complete    | pgonce_leave_seed   | failed      | something was appended that is not whole yet
-- failed      | pgonce_leave_seed   | failed      | the newest reason is kept

create or replace function pgonce_check_seed_arguments(p_seed_name text, p_rows_inserted integer, p_rows_skipped integer) returns void
language plpgsql immutable set search_path from current as $$
begin
  if coalesce(p_seed_name, '') = '' then
    raise sqlstate '22023' using message = 'the seed name must not be empty';
  elsif p_rows_inserted is null or p_rows_skipped is null or p_rows_inserted < 0 or p_rows_skipped < 0 then
    raise sqlstate '22023' using message = 'a count must not be negative or null';
  end if;
end $$;
comment on function pgonce_check_seed_arguments(text, integer, integer) is
  'pgonce: raises 22023 for an empty seed name, and for a count that is negative or null.';

create or replace function pgonce_check_seed_batch(p_batch bigint, p_last_checkpoint jsonb) returns void
language plpgsql immutable set search_path from current as $$
begin
  if p_last_checkpoint is null or p_last_checkpoint = 'null' then
    raise sqlstate '22023' using message = 'the checkpoint must not be null', hint = 'pass the cursor of the last row that is done';
  elsif p_batch is null or p_batch < 0 then
    raise sqlstate '22023' using message = 'the batch number must not be negative or null';
  end if;
end $$;
comment on function pgonce_check_seed_batch(bigint, jsonb) is
  'pgonce: raises 22023 for a checkpoint that is null and for a batch number that is negative or null.';

-- Called after the rows were written: the lock on their table holds until COMMIT, so its name stays with it.
create or replace function pgonce_check_seed_target(p_target jsonb) returns void
language plpgsql stable set search_path from current as $$
begin
  if to_regclass(p_target ->> 'table')::oid is distinct from (p_target ->> 'oid')::oid then
    raise sqlstate '22023' using message = format('table %s was replaced by another one during the import', p_target ->> 'table'),
      hint = 'this batch is rolled back: --restart begins at the start, with the table that is there now';
  end if;
end $$;
comment on function pgonce_check_seed_target(jsonb) is
  'pgonce: raises 22023 if another table has the name of the one that the import began with.';

create or replace function pgonce_add_count(p_count integer, p_more integer) returns integer
language sql immutable set search_path from current as $$
  select least(p_count::bigint + p_more, 2147483647)::integer
$$;
comment on function pgonce_add_count(integer, integer) is
  'pgonce: the sum, or 2147483647 where it is larger than an integer; the total_ columns are exact.';

create or replace function pgonce_note_batch(p_seed_name text, p_partition text, p_batch bigint, p_rows bigint) returns void
language sql set search_path from current as $$
  insert into pgonce_seed_batches (seed_name, partition, slot, batch, rows) values (p_seed_name, p_partition, p_batch % 60, p_batch, p_rows)
  on conflict (seed_name, partition, slot) do update
  set batch = excluded.batch, rows = excluded.rows, committed_at = excluded.committed_at
$$;
comment on function pgonce_note_batch(text, text, bigint, bigint) is
  'pgonce: records when a batch was committed. The last 60 of each seed and partition are kept.';

create or replace function get_checkpoint(p_seed_name text) returns setof seed_checkpoints
language sql stable set search_path from current as $$
  select * from seed_checkpoints where seed_name = p_seed_name
$$;
comment on function get_checkpoint(text) is 'pgonce: the seed''s row, or no row if it has never run.';

create or replace function update_checkpoint(
  p_seed_name text, p_last_checkpoint jsonb, p_rows_inserted integer default 0, p_rows_skipped integer default 0)
returns setof seed_checkpoints
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, p_rows_inserted, p_rows_skipped);
  perform pgonce_check_seed_batch(0, p_last_checkpoint);
  return query
    insert into seed_checkpoints as s (
      seed_name, last_checkpoint, rows_inserted, rows_skipped, rows_seen, total_inserted, total_skipped, batch)
    values (p_seed_name, p_last_checkpoint, p_rows_inserted, p_rows_skipped, p_rows_inserted::bigint + p_rows_skipped,
      p_rows_inserted, p_rows_skipped, 1)
    on conflict (seed_name) do update
    set last_checkpoint = excluded.last_checkpoint,
        rows_inserted   = pgonce_add_count(s.rows_inserted, excluded.rows_inserted),
        rows_skipped    = pgonce_add_count(s.rows_skipped, excluded.rows_skipped),
        rows_seen       = s.rows_seen + excluded.rows_seen,
        total_inserted  = s.total_inserted + excluded.rows_inserted,
        total_skipped   = s.total_skipped + excluded.rows_skipped,
        batch           = s.batch + 1,
        verified        = null,
        fingerprint     = null,
        target          = null,
        progress        = null,
        started_at      = case when s.status = 'complete' then clock_timestamp() else s.started_at end,
        last_updated_at = clock_timestamp(),
        status = 'in_progress', error_message = null, completed_at = null
    returning s.*;
end $$;
comment on function update_checkpoint(text, jsonb, integer, integer) is
  'pgonce: moves the cursor and adds to the counters. It creates the row if it is new, and starts a complete seed again. '
  'Returns the row after the change. Call it in the transaction that writes the rows.';

create or replace function pgonce_advance_seed(
  p_seed_name text, p_run_id uuid, p_batch bigint, p_last_checkpoint jsonb,
  p_rows_inserted integer default 0, p_rows_skipped integer default 0, p_rows_updated integer default 0,
  p_rows_rejected integer default 0, p_fingerprint jsonb default null, p_target jsonb default null,
  p_progress double precision default null)
returns setof seed_checkpoints
language plpgsql set search_path from current as $$
declare
  v_rows bigint := p_rows_inserted::bigint + p_rows_skipped + p_rows_updated + p_rows_rejected;
begin
  perform pgonce_check_seed_arguments(p_seed_name, p_rows_inserted, p_rows_skipped);
  perform pgonce_check_seed_arguments(p_seed_name, p_rows_updated, p_rows_rejected);
  perform pgonce_check_seed_batch(p_batch, p_last_checkpoint);
  perform pgonce_check_seed_target(p_target);
  if p_batch = 0 then
    insert into seed_checkpoints (seed_name) values (p_seed_name) on conflict (seed_name) do nothing;
  end if;
  -- Compare and set in one statement. It waits for a COMMIT of the same batch that is still in flight, and then compares the
  -- number again in the row that was committed. A plain read before it would see the old number.
  return query
    update seed_checkpoints
    set last_checkpoint = p_last_checkpoint,
        rows_inserted   = pgonce_add_count(rows_inserted, p_rows_inserted),
        rows_skipped    = pgonce_add_count(rows_skipped, p_rows_skipped),
        rows_updated    = rows_updated + p_rows_updated,
        rows_rejected   = rows_rejected + p_rows_rejected,
        rows_seen       = rows_seen + v_rows,
        total_inserted  = total_inserted + p_rows_inserted,
        total_skipped   = total_skipped + p_rows_skipped,
        total_updated   = total_updated + p_rows_updated,
        total_rejected  = total_rejected + p_rows_rejected,
        batch           = batch + 1,
        fingerprint     = p_fingerprint,
        target          = p_target,
        progress        = p_progress,
        verified        = null,
        started_at      = case when status = 'complete' then clock_timestamp() else started_at end,
        last_updated_at = clock_timestamp(),
        status = 'in_progress', error_message = null, completed_at = null
    where seed_name = p_seed_name and batch = p_batch
    returning *;
  if not found then
    return;
  end if;
  if exists (select from pgonce_seed_partitions where seed_name = p_seed_name) then
    raise sqlstate '22023' using message = format(
      'the seed %s has run in partitions, and without them it would bring its rows once more: --restart begins at the start', p_seed_name);
  end if;
  perform pgonce_note_batch(p_seed_name, '', p_batch, v_rows);
  if not beat_job_run(p_run_id) then  -- the fence is the last statement
    raise sqlstate 'PT409' using message = format('the import %s was taken over by another runner', p_seed_name),
      hint = 'this batch is rolled back; the other runner resumes at the last checkpoint';
  end if;
end $$;
comment on function pgonce_advance_seed(text, uuid, bigint, jsonb, integer, integer, integer, integer, jsonb, jsonb, double precision) is
  'pgonce: update_checkpoint for the process of run p_run_id, only if p_batch batches have been committed so far. It also '
  'counts updated and rejected rows, and stores the source''s fingerprint, p_target, which identifies the table, and p_progress, '
  'the share of the source that lies before the cursor. No row = '
  'this batch was committed already: roll back and read the checkpoint. PT409 = the run was taken over: roll back.';

create or replace function pgonce_restart_seed(p_seed_name text, p_run_id uuid) returns setof seed_checkpoints
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  delete from pgonce_seed_partitions where seed_name = p_seed_name;
  if found then
    if exists (select from pgonce_get_runners(p_seed_name) where alive and run_id <> p_run_id) then
      raise sqlstate 'PT409' using message = format('another runner is at work on a partition of the import %s', p_seed_name);
    end if;
    delete from pgonce_seed_batches where seed_name = p_seed_name;
  end if;
  delete from pgonce_seed_rejects where seed_name = p_seed_name;
  return query
    insert into seed_checkpoints as s (seed_name) values (p_seed_name)
    on conflict (seed_name) do update
    set last_checkpoint = '{}', rows_inserted = 0, rows_skipped = 0, rows_updated = 0, rows_rejected = 0, rows_seen = 0,
        batch = s.batch + 1, fingerprint = null, target = null, verified = null, progress = null,
        started_at = clock_timestamp(), last_updated_at = clock_timestamp(),
        status = 'in_progress', error_message = null, completed_at = null
    returning s.*;
  if not beat_job_run(p_run_id) then  -- the fence is the last statement
    raise sqlstate 'PT409' using message = format('the import %s was taken over by another runner', p_seed_name);
  end if;
end $$;
comment on function pgonce_restart_seed(text, uuid) is
  'pgonce: resets the import to its start, for the process of run p_run_id. Cursor, counters and rejects are reset, and '
  'partitions are deleted; the total_ columns are kept, and so are the rows in the table. Returns the row. PT409 = the run was '
  'taken over, or a partition has a runner: roll back.';

create or replace function complete_seed(p_seed_name text) returns setof seed_checkpoints
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  if exists (select from pgonce_seed_partitions where seed_name = p_seed_name and status <> 'complete') then
    raise sqlstate '22023' using message = format(
      'the seed %s has partitions that are not complete: run them, or begin at the start without them (--restart)', p_seed_name);
  end if;
  return query
    insert into seed_checkpoints as s (seed_name, status, completed_at)
    values (p_seed_name, 'complete', clock_timestamp())
    on conflict (seed_name) do update
    set status = 'complete', error_message = null, last_updated_at = clock_timestamp(),
        completed_at = coalesce(s.completed_at, excluded.completed_at)
    returning s.*;
end $$;
comment on function complete_seed(text) is
  'pgonce: marks the import as complete and returns its row. 22023 = one of its partitions is not complete.';

create or replace function fail_seed(p_seed_name text, p_error_message text) returns setof seed_checkpoints
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  insert into seed_checkpoints as s (seed_name, status, error_message) values (p_seed_name, 'failed', p_error_message)
  on conflict (seed_name) do update
  set status = 'failed', error_message = excluded.error_message, last_updated_at = clock_timestamp()
  where s.status <> 'complete';
  return query select * from seed_checkpoints where seed_name = p_seed_name;
end $$;
comment on function fail_seed(text, text) is
  'pgonce: marks the import as failed, with the reason, and returns its row; the next run resumes at its checkpoint. A complete '
  'import stays complete.';

create or replace function pgonce_leave_seed(p_seed_name text, p_reason text) returns setof seed_checkpoints
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  return query
    insert into seed_checkpoints as s (seed_name, status, error_message) values (p_seed_name, 'failed', p_reason)
    on conflict (seed_name) do update
    set status = 'failed', error_message = excluded.error_message, last_updated_at = clock_timestamp(), completed_at = null
    returning s.*;
end $$;
comment on function pgonce_leave_seed(text, text) is
  'pgonce: marks the import as failed because its source ended before its end, for example with half a line, and returns its '
  'row. Unlike fail_seed it does so also for a complete import: the source has more by now than was imported.';
