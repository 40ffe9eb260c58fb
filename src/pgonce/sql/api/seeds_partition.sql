-- pgonce_seed_partitions: parts of a seed, each with a checkpoint of its own; seed_checkpoints keeps the sums.
-- A part's runner holds the run of job seed_runner with key "name/partition". The row of the sums is locked last of all, so
-- that two parts wait for each other only as long as a commit takes.
--
-- transitions
-- from        | verb               | to          | because
-- absent      | pgonce_begin_partitions   | in_progress | a part that is new
-- in_progress | pgonce_begin_partitions   | in_progress | it stays where it is
-- complete    | pgonce_begin_partitions   | complete    | it is done
-- in_progress | pgonce_advance_partition  | in_progress | the expected batch
-- repeated    | pgonce_advance_partition  | none        | this batch has landed already
-- lost        | pgonce_advance_partition  | PT409       | the runner was taken over: roll back
-- in_progress | pgonce_complete_partition | complete    | the last one completes the seed
-- complete    | pgonce_complete_partition | complete    | repeated after a lost answer
-- in_progress | pgonce_fail_partition     | failed      | the next run resumes there; the seed has failed, too

create or replace function pgonce_begin_partitions(p_seed_name text, p_partitions text[]) returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_seed_arguments(p_seed_name, 0, 0);
  if array_position(p_partitions, null) is not null or '' = any (p_partitions) or cardinality(p_partitions) = 0 then
    raise sqlstate '22023' using message = format('the seed %s needs at least one partition, and none may be empty', p_seed_name);
  end if;
  insert into seed_checkpoints (seed_name) values (p_seed_name) on conflict (seed_name) do nothing;
  insert into pgonce_seed_partitions (seed_name, partition) select p_seed_name, p from unnest(p_partitions) p order by p
  on conflict do nothing;
  update seed_checkpoints s
  set status = 'in_progress', error_message = null, completed_at = null, last_updated_at = clock_timestamp()
  where s.seed_name = p_seed_name and exists (
    select from pgonce_seed_partitions q where q.seed_name = p_seed_name and q.status <> 'complete');
  return query select * from pgonce_seed_partitions q where q.seed_name = p_seed_name and q.partition = any (p_partitions) order by q.partition;
end $$;
comment on function pgonce_begin_partitions(text, text[]) is
  'pgonce: makes rows for the parts that are new, and returns all that are named, done or not.';

create or replace function pgonce_get_partition(p_seed_name text, p_partition text) returns setof pgonce_seed_partitions
language sql stable set search_path from current as $$
  select * from pgonce_seed_partitions where seed_name = p_seed_name and partition = p_partition
$$;
comment on function pgonce_get_partition(text, text) is 'pgonce: the part''s row, or none.';

create or replace function pgonce_get_partitions(p_seed_name text) returns setof pgonce_seed_partitions
language sql stable set search_path from current as $$
  select * from pgonce_seed_partitions where seed_name = p_seed_name order by partition
$$;
comment on function pgonce_get_partitions(text) is 'pgonce: the parts of a seed.';

create or replace function pgonce_advance_partition(
  p_seed_name text, p_partition text, p_run_id uuid, p_batch bigint, p_last_checkpoint jsonb,
  p_rows_inserted integer default 0, p_rows_skipped integer default 0, p_rows_updated integer default 0,
  p_rows_rejected integer default 0, p_fingerprint jsonb default null)
returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
declare
  v_batch bigint;
  v_seen bigint := p_rows_inserted::bigint + p_rows_skipped + p_rows_updated + p_rows_rejected;
begin
  perform pgonce_check_seed_arguments(p_seed_name, p_rows_inserted, p_rows_skipped);
  perform pgonce_check_seed_arguments(p_seed_name, p_rows_updated, p_rows_rejected);
  if p_last_checkpoint is null or p_last_checkpoint = 'null' then
    raise sqlstate '22023' using message = 'the checkpoint must not be null', hint = 'pass the cursor of the last row that is done';
  end if;
  -- "for update", as in pgonce_advance_seed: it waits for a COMMIT that is still in flight
  select batch into v_batch from pgonce_seed_partitions where seed_name = p_seed_name and partition = p_partition for update;
  if v_batch is distinct from p_batch then
    return;
  end if;
  return query
    update pgonce_seed_partitions
    set last_checkpoint = p_last_checkpoint, batch = batch + 1, fingerprint = p_fingerprint, last_updated_at = clock_timestamp(),
        rows_inserted = rows_inserted + p_rows_inserted, rows_skipped = rows_skipped + p_rows_skipped,
        rows_updated = rows_updated + p_rows_updated, rows_rejected = rows_rejected + p_rows_rejected,
        rows_seen = rows_seen + v_seen, status = 'in_progress', error_message = null, completed_at = null
    where seed_name = p_seed_name and partition = p_partition
    returning id, seed_name, last_checkpoint, rows_inserted, rows_skipped, status, error_message, started_at, last_updated_at,
      completed_at, batch, rows_updated, rows_rejected, rows_seen, fingerprint, verified,
      (select s.paused_at from seed_checkpoints s where s.seed_name = p_seed_name), partition;
  update seed_checkpoints
  set batch = batch + 1, verified = null, last_updated_at = clock_timestamp(),
      rows_inserted = rows_inserted + p_rows_inserted, rows_skipped = rows_skipped + p_rows_skipped,
      rows_updated = rows_updated + p_rows_updated, rows_rejected = rows_rejected + p_rows_rejected,
      rows_seen = rows_seen + v_seen, status = 'in_progress', error_message = null, completed_at = null
  where seed_name = p_seed_name;
  if not beat_job_run(p_run_id) then  -- the fence, last of all
    raise sqlstate 'PT409' using
      message = format('partition %s of the import %s was taken over by another runner', p_partition, p_seed_name),
      hint = 'this batch is rolled back; the other runner goes on from the last checkpoint';
  end if;
end $$;
comment on function pgonce_advance_partition(text, text, uuid, bigint, jsonb, integer, integer, integer, integer, jsonb) is
  'pgonce: pgonce_advance_seed for a part: moves its cursor, and adds to its counters and to the seed''s.';

create or replace function pgonce_complete_partition(p_seed_name text, p_partition text) returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
begin
  -- the lock makes two that end at once see each other: the second finds that it is the last
  perform from seed_checkpoints where seed_name = p_seed_name for update;
  update pgonce_seed_partitions
  set status = 'complete', error_message = null, completed_at = coalesce(completed_at, clock_timestamp()),
      last_updated_at = clock_timestamp()
  where seed_name = p_seed_name and partition = p_partition;
  if not exists (select from pgonce_seed_partitions where seed_name = p_seed_name and status <> 'complete') then
    perform complete_seed(p_seed_name);
  end if;
  return query select * from pgonce_get_partition(p_seed_name, p_partition);
end $$;
comment on function pgonce_complete_partition(text, text) is 'pgonce: the part is done; the last one completes the seed.';

create or replace function pgonce_fail_partition(p_seed_name text, p_partition text, p_error_message text) returns setof pgonce_seed_partitions
language plpgsql set search_path from current as $$
begin
  perform fail_seed(p_seed_name, format('partition %s: %s', p_partition, p_error_message));
  return query
    update pgonce_seed_partitions set status = 'failed', error_message = p_error_message, last_updated_at = clock_timestamp()
    where seed_name = p_seed_name and partition = p_partition and status <> 'complete'
    returning *;
end $$;
comment on function pgonce_fail_partition(text, text, text) is 'pgonce: the part has failed, and the seed with it; the next run resumes both.';
