-- Starts many runs in one statement, and ends many. A program that has several at the same time pays for one statement and
-- one commit: most of the cost of a single start is the setup of the statement. A run that is neither plainly free nor
-- plainly the caller's goes through the functions of jobs_guard.sql, one by one. So the transitions are theirs, and if one of
-- them raises an error, the whole call fails.
--
-- transitions
-- from      | verb              | to        | because
-- absent    | pgonce_start_job_runs    | running   | no other run is running
-- running   | pgonce_start_job_runs    | skipped   | overlap
-- stale     | pgonce_start_job_runs    | running   | its process died: closed as failed ("abandoned"), a new run begins
-- succeeded | pgonce_start_job_runs    | running   | no other run is running
-- failed    | pgonce_start_job_runs    | running   | no other run is running
-- skipped   | pgonce_start_job_runs    | running   | no other run is running
-- paused    | pgonce_start_job_runs    | skipped   | an operator paused the job
-- ticked    | pgonce_start_job_runs    | none      | this tick has fired already, on any machine
-- absent    | pgonce_complete_job_runs | PT404     | no such run
-- running   | pgonce_complete_job_runs | succeeded | the run ends
-- stale     | pgonce_complete_job_runs | succeeded | late, but nobody took it over
-- succeeded | pgonce_complete_job_runs | succeeded | true: the call was repeated after a lost answer
-- failed    | pgonce_complete_job_runs | false     | it was taken over or has failed
-- skipped   | pgonce_complete_job_runs | false     | it never ran

-- Planned as in webhooks_batch.sql: one plan for all calls, which finds each run by its index.
create or replace function pgonce_start_job_runs(
  p_job_names text[], p_scopes jsonb[], p_windows interval[], p_keys text[], p_scheduled_for timestamptz[],
  p_processes text[] default null, p_run_ids uuid[] default null)
returns uuid[]
language plpgsql set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  v_ids uuid[];
  v_answered boolean[];
begin
  if 1 <> any (array[array_lower(p_job_names, 1), array_lower(p_scopes, 1), array_lower(p_windows, 1), array_lower(p_keys, 1),
                     array_lower(p_scheduled_for, 1), array_lower(p_processes, 1), array_lower(p_run_ids, 1)]) then
    raise sqlstate '22023' using message = 'the arrays must begin at 1';
  end if;
  -- One INSERT writes the runs that begin and those that overlap. It leaves out a run if another session has written it
  -- since, or if the same run is twice in this call.
  with given as (
    -- a skipped row does not get the id: the caller may send its start again
    select case when r.id is null and g.run_id is not null then g.run_id else gen_random_uuid() end as id, clock_timestamp() as now, g.*,
           r.id as holder, r.started_at as since, r.is_alive
    from unnest(p_job_names, p_scopes, p_windows, p_keys, p_scheduled_for, p_processes, p_run_ids) with ordinality
      as g (job_name, scope, run_window, key, scheduled_for, process, run_id, place)
    -- with a limit: without it the planner might choose a join that reads all running runs
    left join lateral (
      select r.id, r.started_at,
             r.heartbeat_at between clock_timestamp() - r.run_window and clock_timestamp() + interval '1 minute' as is_alive
      from cron_job_runs r
      where r.job_name = g.job_name and r.key = g.key and r.status = 'running' limit 1) r on true
  ), written as (
    insert into cron_job_runs (id, job_name, status, scope, key, run_window, scheduled_for, started_at, heartbeat_at, completed_at,
                               duration_ms, blocked_by, error_message, process)
    select id, job_name, case when holder is null then 'running' else 'skipped' end, coalesce(scope, '{}'), key, run_window,
           scheduled_for, now, now, case when holder is not null then now end, case when holder is not null then 0 end, holder,
           case when holder is not null then format('overlap: run %s has been running since %s', holder, pgonce_utc_text(since)) end,
           process
    from given
    where job_name > '' and run_window between '1 us' and '100 years' and key is not null and (holder is null or is_alive)
      and not exists (select from cron_job_runs o where o.id = given.run_id)
      and not exists (select from pgonce_job_pauses p where p.job_name = given.job_name)
      and (scheduled_for is null or not exists (
        select from pgonce_job_schedules s where s.job_name = given.job_name and s.key = given.key and s.slots is not null))
    on conflict do nothing
    returning id, status
  )
  select array_agg(case when w.status = 'running' then w.id end order by g.place), array_agg(w.id is not null order by g.place)
  into v_ids, v_answered from given g left join written w using (id);
  for i in 1 .. coalesce(cardinality(v_ids), 0) loop
    if not v_answered[i] then
      v_ids[i] := start_job_run(p_job_names[i], p_scopes[i], p_windows[i], p_keys[i], p_scheduled_for[i],
                                 p_process => p_processes[i], p_run_id => p_run_ids[i]);
    end if;
  end loop;
  return coalesce(v_ids, '{}');
end $$;
comment on function pgonce_start_job_runs(text[], jsonb[], interval[], text[], timestamptz[], text[], uuid[]) is
  'pgonce: start_job_run for many runs without retries, in one statement. Returns their ids, and null where start_job_run '
  'returns null. The arrays have one element for each run. Sort them by job and key everywhere: two sessions with the same '
  'runs then wait for each other and do not deadlock.';

create or replace function pgonce_complete_job_runs(
  p_run_ids uuid[], p_rows_processed integer[], p_rows_skipped integer[], p_transactions integer[] default '{}')
returns boolean[]
language plpgsql set search_path from current
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_ended uuid[];
  v_answers boolean[] := '{}';
begin
  if array_lower(p_run_ids, 1) <> 1 then
    raise sqlstate '22023' using message = 'the arrays must begin at 1';
  elsif 0 > any (p_rows_processed || p_rows_skipped) then
    raise sqlstate '22023' using message = 'a count must not be negative';
  end if;
  with ended as (
    update cron_job_runs r
    set status = 'succeeded', completed_at = v_now, error_message = null,
        rows_processed = coalesce(g.rows_processed, r.rows_processed), rows_skipped = coalesce(g.rows_skipped, r.rows_skipped),
        duration_ms = pgonce_elapsed_ms(r.started_at, v_now)
    from unnest(p_run_ids, p_rows_processed, p_rows_skipped, p_transactions) as g (id, rows_processed, rows_skipped, transactions)
    where r.id = g.id and r.status || '' = 'running' and r.transactions >= coalesce(g.transactions, 0)
    returning r.id
  )
  select array_agg(id) into v_ended from ended;
  for i in 1 .. coalesce(cardinality(p_run_ids), 0) loop
    v_answers[i] := p_run_ids[i] = any (v_ended);
    if v_answers[i] is not true then
      perform pgonce_check_job_run_transactions(p_run_ids[i], p_transactions[i]);
      v_answers[i] := pgonce_has_job_run_ended(p_run_ids[i], 'succeeded', null);
    end if;
  end loop;
  return v_answers;
end $$;
comment on function pgonce_complete_job_runs(uuid[], integer[], integer[], integer[]) is
  'pgonce: complete_job_run for many runs, in one statement. Returns its answers. The arrays have one element for each run.';
