-- pgonce_seed_partitions: parts of a seed, each with a checkpoint of its own. seed_checkpoints has the sums.
-- A part's runner has the run of job seed_runner with key "name/partition". The row of the sums is locked last, so that two
-- parts wait for each other only as long as a commit takes.
--
-- transitions
-- from        | verb                      | to          | because
-- absent      | pgonce_begin_partitions   | in_progress | the part is new
-- in_progress | pgonce_begin_partitions   | in_progress | its checkpoint stays
-- complete    | pgonce_begin_partitions   | complete    | it is done
-- failed      | pgonce_begin_partitions   | failed      | it resumes at its next batch
-- whole       | pgonce_begin_partitions   | 22023       | the seed has run without parts: they would bring its rows once more
-- absent      | pgonce_advance_partition  | PT404       | the part does not exist
-- in_progress | pgonce_advance_partition  | in_progress | the expected batch
-- complete    | pgonce_advance_partition  | in_progress | the part starts again, and so does the seed
-- failed      | pgonce_advance_partition  | in_progress | the resume made progress
-- repeated    | pgonce_advance_partition  | none        | this batch was committed already
-- lost        | pgonce_advance_partition  | PT409       | the runner was replaced: roll back
-- absent      | pgonce_restart_partition  | PT404       | the part does not exist
-- in_progress | pgonce_restart_partition  | in_progress | cursor, counters and rejects are reset; the sums are reduced
-- complete    | pgonce_restart_partition  | in_progress | cursor, counters and rejects are reset; the sums are reduced
-- failed      | pgonce_restart_partition  | in_progress | cursor, counters and rejects are reset; the sums are reduced
-- lost        | pgonce_restart_partition  | PT409       | the runner was replaced: roll back
-- absent      | pgonce_complete_partition | PT404       | the part does not exist
-- in_progress | pgonce_complete_partition | complete    | the last one completes the seed
-- complete    | pgonce_complete_partition | complete    | repeated after a lost answer
-- failed      | pgonce_complete_partition | complete    | the resume found nothing left to do
-- absent      | pgonce_fail_partition     | PT404       | the part does not exist
-- in_progress | pgonce_fail_partition     | failed      | the next run resumes there; the seed has failed, too
-- complete    | pgonce_fail_partition     | complete    | a late failure changes neither the part nor the seed
-- failed      | pgonce_fail_partition     | failed      | the newest reason is kept
-- absent      | pgonce_leave_partition    | PT404       | the part does not exist
-- in_progress | pgonce_leave_partition    | failed      | the source ended too early: the next run resumes at the checkpoint
-- complete    | pgonce_leave_partition    | failed      | something was appended that is not whole yet
-- failed      | pgonce_leave_partition    | failed      | the newest reason is kept

create or replace function pgonce_check_partition(p_seed_name text, p_partition text, p_found boolean) returns void
language plpgsql immutable set search_path from current as $$
begin
  if not coalesce(p_found, false) then
    raise sqlstate 'PT404' using message = format('the seed %s has no partition %s', p_seed_name, p_partition),
      hint = 'pgonce_begin_partitions creates it';
  end if;
end $$;
comment on function pgonce_check_partition(text, text, boolean) is 'pgonce: raises PT404 for a partition that does not exist.';

create or replace function pgonce_begin_partitions(p_seed_name text, p_partitions text[]) returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  if p_partitions is null or array_position(p_partitions, null) is not null or '' = any (p_partitions) or cardinality(p_partitions) = 0 then
    raise sqlstate '22023' using message = format('the seed %s needs at least one partition, and none may be empty', p_seed_name);
  end if;
  insert into seed_checkpoints (seed_name) values (p_seed_name) on conflict (seed_name) do nothing;
  insert into pgonce_seed_partitions (seed_name, partition) select p_seed_name, p from unnest(p_partitions) p order by p
  on conflict do nothing;
  -- Locked before the parts are looked at. The update would wait for the end of the last part, too, but then look at the parts
  -- as they were before: the seed would be in progress for ever, with all parts complete.
  perform from seed_checkpoints where seed_name = p_seed_name for update;
  if exists (select from seed_checkpoints where seed_name = p_seed_name and last_checkpoint <> '{}') then
    raise sqlstate '22023' using message = format(
      'the seed %s has run without partitions, and with them it would bring its rows once more: --restart begins at the start', p_seed_name);
  end if;
  update seed_checkpoints s
  set status = 'in_progress', error_message = null, completed_at = null, last_updated_at = clock_timestamp()
  where s.seed_name = p_seed_name and exists (
    select from pgonce_seed_partitions q where q.seed_name = p_seed_name and q.status <> 'complete');
  return query select * from pgonce_seed_partitions q where q.seed_name = p_seed_name and q.partition = any (p_partitions) order by q.partition;
end $$;
comment on function pgonce_begin_partitions(text, text[]) is
  'pgonce: creates rows for the parts that are new. Returns all parts that are named, done or not.';

create or replace function pgonce_get_partition(p_seed_name text, p_partition text) returns setof pgonce_seed_partitions
language sql stable set search_path from current as $$
  -- a pause belongs to the seed, and stops every part
  select (jsonb_populate_record(q, jsonb_build_object('paused_at', s.paused_at))).*
  from pgonce_seed_partitions q join seed_checkpoints s using (seed_name)
  where q.seed_name = p_seed_name and q.partition = p_partition
$$;
comment on function pgonce_get_partition(text, text) is 'pgonce: the part''s row, with the seed''s paused_at, or none.';

create or replace function pgonce_get_partitions(p_seed_name text) returns setof pgonce_seed_partitions
language sql stable set search_path from current as $$
  select * from pgonce_seed_partitions where seed_name = p_seed_name order by partition
$$;
comment on function pgonce_get_partitions(text) is 'pgonce: the parts of a seed.';

create or replace function pgonce_advance_partition(
  p_seed_name text, p_partition text, p_run_id uuid, p_batch bigint, p_last_checkpoint jsonb,
  p_rows_inserted integer default 0, p_rows_skipped integer default 0, p_rows_updated integer default 0,
  p_rows_rejected integer default 0, p_fingerprint jsonb default null, p_target jsonb default null,
  p_progress double precision default null)
returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
declare
  v_batch bigint;
  v_rows bigint := p_rows_inserted::bigint + p_rows_skipped + p_rows_updated + p_rows_rejected;
begin
  perform pgonce_check_seed_arguments(p_seed_name, p_rows_inserted, p_rows_skipped);
  perform pgonce_check_seed_arguments(p_seed_name, p_rows_updated, p_rows_rejected);
  perform pgonce_check_seed_batch(p_batch, p_last_checkpoint);
  perform pgonce_check_seed_target(p_target);
  -- "for update", as in pgonce_advance_seed: it waits for a COMMIT that is still in flight
  select batch into v_batch from pgonce_seed_partitions where seed_name = p_seed_name and partition = p_partition for update;
  perform pgonce_check_partition(p_seed_name, p_partition, found);
  if v_batch <> p_batch then
    return;
  end if;
  update pgonce_seed_partitions
  set last_checkpoint = p_last_checkpoint, batch = batch + 1, fingerprint = p_fingerprint, target = p_target,
      progress = p_progress, last_updated_at = clock_timestamp(),
      rows_inserted = pgonce_add_count(rows_inserted, p_rows_inserted), rows_skipped = pgonce_add_count(rows_skipped, p_rows_skipped),
      rows_updated = rows_updated + p_rows_updated, rows_rejected = rows_rejected + p_rows_rejected, rows_seen = rows_seen + v_rows,
      total_inserted = total_inserted + p_rows_inserted, total_skipped = total_skipped + p_rows_skipped,
      total_updated = total_updated + p_rows_updated, total_rejected = total_rejected + p_rows_rejected,
      status = 'in_progress', error_message = null, completed_at = null
  where seed_name = p_seed_name and partition = p_partition;
  update seed_checkpoints
  set batch = batch + 1, verified = null, last_updated_at = clock_timestamp(),
      rows_inserted = pgonce_add_count(rows_inserted, p_rows_inserted), rows_skipped = pgonce_add_count(rows_skipped, p_rows_skipped),
      rows_updated = rows_updated + p_rows_updated, rows_rejected = rows_rejected + p_rows_rejected, rows_seen = rows_seen + v_rows,
      total_inserted = total_inserted + p_rows_inserted, total_skipped = total_skipped + p_rows_skipped,
      total_updated = total_updated + p_rows_updated, total_rejected = total_rejected + p_rows_rejected,
      status = 'in_progress', error_message = null, completed_at = null
  where seed_name = p_seed_name;
  perform pgonce_note_batch(p_seed_name, p_partition, p_batch, v_rows);
  return query select * from pgonce_get_partition(p_seed_name, p_partition);
  if not beat_job_run(p_run_id) then  -- the fence is the last statement
    raise sqlstate 'PT409' using
      message = format('partition %s of the import %s was taken over by another runner', p_partition, p_seed_name),
      hint = 'this batch is rolled back; the other runner resumes at the last checkpoint';
  end if;
end $$;
comment on function pgonce_advance_partition(text, text, uuid, bigint, jsonb, integer, integer, integer, integer, jsonb, jsonb, double precision) is
  'pgonce: pgonce_advance_seed for a part: moves its cursor, and adds to the counters of the part and of the seed.';

create or replace function pgonce_restart_partition(p_seed_name text, p_partition text, p_run_id uuid) returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
declare
  v_part pgonce_seed_partitions;
begin
  select * into v_part from pgonce_seed_partitions where seed_name = p_seed_name and partition = p_partition for update;
  perform pgonce_check_partition(p_seed_name, p_partition, found);
  delete from pgonce_seed_rejects where seed_name = p_seed_name and partition = p_partition;
  return query
    update pgonce_seed_partitions
    set last_checkpoint = '{}', rows_inserted = 0, rows_skipped = 0, rows_updated = 0, rows_rejected = 0, rows_seen = 0,
        batch = batch + 1, fingerprint = null, target = null, progress = null,
        started_at = clock_timestamp(), last_updated_at = clock_timestamp(),
        status = 'in_progress', error_message = null, completed_at = null
    where seed_name = p_seed_name and partition = p_partition
    returning *;
  update seed_checkpoints
  set batch = batch + 1, verified = null, last_updated_at = clock_timestamp(),
      rows_inserted = greatest(rows_inserted - v_part.rows_inserted, 0), rows_skipped = greatest(rows_skipped - v_part.rows_skipped, 0),
      rows_updated = rows_updated - v_part.rows_updated, rows_rejected = rows_rejected - v_part.rows_rejected,
      rows_seen = rows_seen - v_part.rows_seen, status = 'in_progress', error_message = null, completed_at = null
  where seed_name = p_seed_name;
  if not beat_job_run(p_run_id) then  -- the fence is the last statement
    raise sqlstate 'PT409' using
      message = format('partition %s of the import %s was taken over by another runner', p_partition, p_seed_name);
  end if;
end $$;
comment on function pgonce_restart_partition(text, text, uuid) is
  'pgonce: pgonce_restart_seed for a part. The part''s counts are subtracted from the seed''s counters.';

create or replace function pgonce_complete_partition(p_seed_name text, p_partition text) returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
begin
  update pgonce_seed_partitions
  set status = 'complete', error_message = null, completed_at = coalesce(completed_at, clock_timestamp()),
      last_updated_at = clock_timestamp()
  where seed_name = p_seed_name and partition = p_partition;
  perform pgonce_check_partition(p_seed_name, p_partition, found);
  -- Of two parts that end at the same time, the second waits here, and then sees that it is the last one. An update, and not
  -- only a lock: under REPEATABLE READ it would not see the other's end, and now it gets 40001 and is repeated.
  update seed_checkpoints set last_updated_at = clock_timestamp() where seed_name = p_seed_name;
  if not exists (select from pgonce_seed_partitions where seed_name = p_seed_name and status <> 'complete') then
    perform complete_seed(p_seed_name);
  end if;
  return query select * from pgonce_get_partition(p_seed_name, p_partition);
end $$;
comment on function pgonce_complete_partition(text, text) is
  'pgonce: marks the part as complete. The last one completes the seed. PT404 = the part does not exist.';

create or replace function pgonce_fail_partition(p_seed_name text, p_partition text, p_error_message text) returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
begin
  update pgonce_seed_partitions set status = 'failed', error_message = p_error_message, last_updated_at = clock_timestamp()
  where seed_name = p_seed_name and partition = p_partition and status <> 'complete';
  if found then
    perform fail_seed(p_seed_name, format('partition %s: %s', p_partition, p_error_message));
  end if;
  return query select * from pgonce_get_partition(p_seed_name, p_partition);
  perform pgonce_check_partition(p_seed_name, p_partition, found);
end $$;
comment on function pgonce_fail_partition(text, text, text) is
  'pgonce: marks the part and the seed as failed. The next run resumes both. A complete part stays complete. PT404 = the part '
  'does not exist.';

create or replace function pgonce_leave_partition(p_seed_name text, p_partition text, p_reason text) returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
begin
  update pgonce_seed_partitions
  set status = 'failed', error_message = p_reason, last_updated_at = clock_timestamp(), completed_at = null
  where seed_name = p_seed_name and partition = p_partition;
  perform pgonce_check_partition(p_seed_name, p_partition, found);
  perform pgonce_leave_seed(p_seed_name, format('partition %s: %s', p_partition, p_reason));
  return query select * from pgonce_get_partition(p_seed_name, p_partition);
end $$;
comment on function pgonce_leave_partition(text, text, text) is
  'pgonce: pgonce_leave_seed for a part, and for its seed. PT404 = the part does not exist.';
