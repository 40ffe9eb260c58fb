-- What the console shows of imports. Every read is bounded.

create or replace function pgonce_console_seeds(
  p_before timestamptz default null, p_before_name text default null, p_find text default null, p_name text default null,
  p_limit integer default 30, p_open boolean default false)
returns table (seed_name text, status text, rows_seen bigint, rows_total bigint, rows_inserted integer, rows_updated bigint,
               rows_skipped integer, rows_rejected bigint, batch bigint, started_at timestamptz, last_updated_at timestamptz,
               completed_at timestamptz, paused_at timestamptz, verified jsonb, reason text, target jsonb, progress double precision, run_id uuid,
               run_started_at timestamptz, process text, batch_rows bigint[], batch_times timestamptz[])
language plpgsql stable set search_path from current set plan_cache_mode = force_custom_plan as $$
begin
  return query
  -- once for all imports: the few live runs, not pgonce_get_runners for each import
  with live as materialized (
    select r.id, r.key, r.scope, r.started_at, r.process from cron_job_runs r
    where r.status = 'running' and r.job_name = 'seed_runner'
      and (r.heartbeat_at + r.run_window > clock_timestamp() or pgonce_has_heartbeat(r.id, r.run_window)))
  select s.seed_name, s.status, s.rows_seen, s.rows_total, s.rows_inserted, s.rows_updated, s.rows_skipped, s.rows_rejected, s.batch,
         s.started_at, s.last_updated_at, s.completed_at, s.paused_at, s.verified,
         case when s.status = 'failed' then pgonce_error_line(s.error_message) end, s.target, s.progress, w.id, w.started_at, w.process,
         b.rows, b.times
  from (select * from seed_checkpoints c
        where (p_name is null or c.seed_name = p_name) and (p_before is null or (c.last_updated_at, c.seed_name) < (p_before, p_before_name))
          and (p_find is null or position(lower(p_find) in lower(c.seed_name)) > 0) and (not p_open or c.status <> 'complete')
        order by c.last_updated_at desc, c.seed_name desc limit p_limit) s
  left join lateral (
    select r.id, r.started_at, r.process from live r
    where (r.key = s.seed_name or left(r.key, length(s.seed_name) + 1) = s.seed_name || '/')
      and coalesce(r.scope ->> 'seed_name', s.seed_name) = s.seed_name order by r.started_at limit 1) w on true
  left join lateral (
    select array_agg(n.rows order by n.committed_at) as rows, array_agg(n.committed_at order by n.committed_at) as times
    from (select a.rows, a.committed_at from pgonce_seed_batches a where a.seed_name = s.seed_name order by a.committed_at desc limit 60) n) b on true
  order by s.last_updated_at desc, s.seed_name desc;
end $$;
comment on function pgonce_console_seeds(timestamptz, text, text, text, integer, boolean) is
  'pgonce: imports, those that changed last first, before (p_before, p_before_name): each with its live run and its last 60 batches. '
  'p_find: those whose names contain this text. p_name: only this one. p_open: those that are not complete.';

create or replace function pgonce_console_seed_runs(p_seed_name text)
returns table (id uuid, key text, status text, started_at timestamptz, ended_at timestamptz, from_row bigint, process text,
               rows_processed integer, rows_skipped integer, retries_rejects boolean, stop_requested_at timestamptz, outcome text, reason text)
language sql stable set search_path from current as $$
  select r.id, r.key, r.status, r.started_at, r.completed_at,
         case when r.scope ->> 'from_row' ~ '^\d{1,18}$' then (r.scope ->> 'from_row')::bigint end, r.process,
         r.rows_processed, r.rows_skipped, coalesce(r.scope ->> 'retries' = 'rejects', false), r.stop_requested_at, r.scope ->> 'outcome',
         pgonce_error_line(r.error_message)
  from (select * from cron_job_runs h where h.job_name = 'seed_runner' order by h.job_name, h.started_at desc limit 5000) r
  where (r.key = p_seed_name or left(r.key, length(p_seed_name) + 1) = p_seed_name || '/') and r.status <> 'skipped'
    and coalesce(r.scope ->> 'seed_name', p_seed_name) = p_seed_name  -- not that of another seed whose name has a slash
  order by r.started_at desc, r.id desc limit 20
$$;
comment on function pgonce_console_seed_runs(text) is
  'pgonce: the last 20 starts and resumes of an import and its partitions, newest first, among the newest 5,000 runs of all imports.';

create or replace function pgonce_reject_reason(p_reason text, p_error text, p_column text) returns text[]
language sql immutable parallel safe set search_path from current as $$
  -- If no reason is stored, it is what the message says without values. A message of class 22 quotes the value after a colon, and
  -- PostgreSQL's DETAIL, which contains the row, comes last.
  select array[
    left(coalesce(p_reason, regexp_replace(split_part(p_error, ' Failing row', 1), '(?:: ".*| Key .*)$', '')), 300),
    substring(p_error from 'constraint "([^"]+)"'),
    coalesce(p_column, substring(p_error from 'column "([^"]+)"'), substring(p_error from ' Key \(([^)]+)\)='))]
$$;
comment on function pgonce_reject_reason(text, text, text) is
  'pgonce: the reason of a rejected row without its values, the constraint and the column that were named; each may be null.';

create or replace function pgonce_console_seed_rejects(p_seed_name text)
returns table (reason text, sqlstate text, constraint_name text, column_name text, rows bigint, last_at timestamptz, first_id bigint)
language sql stable set search_path from current as $$
  select coalesce(j.found[1], j.reason), j.sqlstate, j.found[2], coalesce(j.found[3], j.column_name), count(*), max(j.rejected_at), min(j.id)
  from (select r.*, case when r.reason is null or r.sqlstate like '23%' then pgonce_reject_reason(r.reason, r.error, r.column_name) end as found  -- 20 us for each row
        from pgonce_seed_rejects r where r.seed_name = p_seed_name order by r.id limit 10000) j
  group by 1, 2, 3, 4
  order by 5 desc, 1 limit 50
$$;
comment on function pgonce_console_seed_rejects(text) is
  'pgonce: the first 10,000 rejected rows of an import, grouped by reason, without their values.';

create or replace function pgonce_console_seed_reject_rows(
  p_seed_name text, p_like_id bigint, p_after bigint default 0, p_limit integer default 50)
returns table (id bigint, partition text, row_number bigint, "row" jsonb, line text, column_name text, rejected_at timestamptz)
language sql stable set search_path from current as $$
  select j.id, j.partition, j.row_number, j.row, left(encode(j.line, 'escape'), 2000), coalesce(j.column_name, j.found[3]), j.rejected_at
  from (select r.*, case when r.reason is null or r.sqlstate like '23%' then pgonce_reject_reason(r.reason, r.error, r.column_name) end as found
        from pgonce_seed_rejects r where r.seed_name = p_seed_name and r.id > p_after order by r.id limit 10000) j
  join (select r.*, case when r.reason is null or r.sqlstate like '23%' then pgonce_reject_reason(r.reason, r.error, r.column_name) end as found
        from pgonce_seed_rejects r where r.id = p_like_id and r.seed_name = p_seed_name) l
    on (j.reason, j.sqlstate, j.column_name, j.found) is not distinct from (l.reason, l.sqlstate, l.column_name, l.found)
  order by j.id limit p_limit
$$;
comment on function pgonce_console_seed_reject_rows(text, bigint, bigint, integer) is
  'pgonce: the rejected rows of an import that have the same reason as the row with this id, with their values, after id p_after.';
