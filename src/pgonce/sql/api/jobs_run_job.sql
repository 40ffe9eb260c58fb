-- For pg_cron: select cron.schedule('nightly', '0 3 * * *', $$call run_job('nightly', 'refresh materialized view figures')$$).
--
-- pg_cron runs a command of several statements as one transaction, so a failure would roll back its own audit row. This
-- procedure therefore commits in between. A procedure with "set search_path" may not commit, so this one names the schema
-- instead. The run's row is locked while the command runs. A locked row counts as running, so no heartbeat
-- is needed. The lock ends with the session.
do $do$ begin execute replace($sql$
create or replace procedure run_job(
  p_job_name text, p_command text, p_window interval default '15 minutes', p_key text default '')
language plpgsql as $body$
declare
  v_run uuid;
  v_rows bigint;
  v_error text;
begin
  v_run := THIS.start_job_run(p_job_name, p_window => p_window, p_key => p_key);
  commit;
  if v_run is null then
    raise notice '%: skipped, %', p_job_name, (
      select error_message from THIS.cron_job_runs where job_name = p_job_name and key = p_key and status = 'skipped'
      order by started_at desc limit 1);
    return;
  end if;
  begin
    perform set_config('application_name', 'pgonce ' || v_run::text, true);  -- by which pgonce_end_job_run finds this session
    if not THIS.beat_job_run(v_run) then
      raise sqlstate 'PT409' using message = format('run %s of job %s was taken over', v_run, p_job_name);
    end if;
    execute p_command;
    get diagnostics v_rows = row_count;
    perform THIS.complete_job_run(v_run, least(v_rows, 2147483647)::integer);
  exception when others or query_canceled or assert_failure then  -- "others" does not include these two
    v_error := sqlerrm;
  end;
  if v_error is not null then
    perform THIS.fail_job_run(v_run, v_error);
    commit;
    raise exception '%', v_error;  -- so that pg_cron also records it as failed
  end if;
end $body$
$sql$, 'THIS', quote_ident(current_schema())); end $do$;
comment on procedure run_job(text, text, interval, text) is
  'pgonce: runs an SQL command as a run of this job, unless another run is running. The audit row is kept whatever happens. '
  'Call it outside a transaction: call run_job(''nightly'', ''refresh materialized view figures''). The command may not commit.';
