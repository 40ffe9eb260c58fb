-- What state a run is in, how that is known, and what to do: for `pgonce job show`, the console and the page docs/jobs.md.

-- The sentences are also the table in docs/jobs.md (tools/diagnoses.py). RUN and NAME in a command are the run and its job.
create or replace function pgonce_job_causes()
returns table (kind text, needs_person boolean, row_says text, cause text, action text, command text)
-- plpgsql keeps the plan: before PostgreSQL 18 a function in SQL is parsed again at each call.
language plpgsql immutable parallel safe set search_path from current as $$
begin
  return query values
    ('at_work', false, '`running`, `heartbeat_at` is fresh, not for longer than usual',
     'It is running as usual.',
     'Nothing.',
     null),
    ('slow', true, '`running`, `heartbeat_at` is fresh, for longer than usual or without progress; starts are `skipped` because of it',
     'It is alive, but it is slow or hangs.',
     'Look at its process. To end the run, ask it to stop; if it does not stop, end it.',
     'pgonce job stop RUN'),
    ('stopping', true, '`running`, `heartbeat_at` is fresh, `stop_requested_at` is set',
     'It has been asked to stop, and has not stopped yet.',
     'Wait: a plain function returns where it reads `run.stop_requested`. Or end it: what it still writes through the run is not committed.',
     'pgonce job end RUN --reason ''it does not stop'''),
    ('silent', true, '`running`, no heartbeat for more than half of its window',
     'Its process has died, is suspended, or cannot reach the database.',
     'Wait until the window is over: then a worker closes it. If the process is gone for certain, end the run.',
     'pgonce job end RUN --reason ''its process is gone'''),
    ('dead', false, '`running`, no heartbeat for its whole window',
     'It has died.',
     'Nothing: a worker closes it within 15 s, or else the next start does. If neither happens, end it.',
     'pgonce job end RUN --reason ''its process is gone'''),
    ('waits_for_retry', false, '`failed`, and its retry is planned',
     'It failed, and will be retried.',
     'Fix the cause if it is not a passing one. A retry that is late means that no worker has the job: start one.',
     'pgonce ps'),
    ('interrupted', false, '`failed`, "worker stopped" or "the answer to its start was lost: …"',
     'Its process was told to stop, or was not told that the run had started.',
     'A worker starts it again. If none has the job, start one.',
     'pgonce ps'),
    ('abandoned', true, '`failed`, "abandoned: …"',
     'It died, or could not reach the database for its whole window.',
     'Look at the log of its machine at the last sign of life. The next start is a new run.',
     'pgonce job ls --job NAME'),
    ('ended', false, '`failed`, "ended by hand: …" or "stopped on request"',
     'Somebody ended it.',
     'Nothing, if that was right. Otherwise request a new run.',
     'pgonce job request NAME'),
    ('timed_out', true, '`failed`, "timed out after …"',
     'It took longer than the timeout of its job.',
     'Find out why it is slow, or raise the timeout. The next start is a new run.',
     'pgonce job stats NAME'),
    ('raised', true, '`failed`, any other text',
     'The job raised an error.',
     'Fix it. The next start is a new run.',
     'pgonce job request NAME'),
    ('blocked', false, '`skipped`, `blocked_by` is set',
     'Another run of this job and key was running.',
     'Look at that run.',
     'pgonce job show RUN'),
    ('paused', true, '`skipped`, "paused: …"',
     'An operator had paused the job.',
     'Resume the job, when the reason is gone.',
     'pgonce job resume NAME'),
    ('given_up', true, '`skipped`, `scheduled_for` is set, `blocked_by` is not',
     'No scheduler started it in time.',
     'Look whether a worker with this job is running.',
     'pgonce ps'),
    ('missed', true, 'a tick without a row',
     'Nothing started it.',
     'Look at `pgonce_job_missed`, and whether a worker with this job is running. If cron starts it, look there.',
     'pgonce ps');
end $$;
comment on function pgonce_job_causes() is
  'pgonce: everything that can be the matter with a run: what its row says, what it is, what to do and which command does it. '
  'needs_person: nothing happens by itself.';

create or replace function pgonce_usual_job_duration(p_job_name text, p_key text, out from_ms integer, out to_ms integer)
language sql stable set search_path from current as $$
  select (u.ms)[1], (u.ms)[2] from (
    select percentile_disc(array[0.1, 0.9]) within group (order by r.duration_ms) as ms, count(*) as runs
    from (select n.key, n.status, n.duration_ms from cron_job_runs n where n.job_name = any (array[p_job_name])
          order by n.job_name, n.started_at desc limit 100) r
    where r.key = p_key and r.status = 'succeeded') u
  where u.runs >= 5
$$;
comment on function pgonce_usual_job_duration(text, text) is
  'pgonce: the 10 % and 90 % points of the durations of the last successful runs of a job and key; null of fewer than five.';

create or replace function pgonce_diagnose_run(p_run_id uuid)
returns table (kind text, needs_person boolean, cause text, evidence text, action text, command text)
-- Called for each of many rows by functions that plan with their arguments: without a setting of its own, each statement here
-- would be planned again for each row, which took longer than to execute it.
language plpgsql stable set search_path from current set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
  r cron_job_runs;
  v_now timestamptz := clock_timestamp();
  v_beat timestamptz;
  v_silent interval;
  v_running interval;
  v_locked boolean;
  v_usual_ms integer;
  v_within interval;
  v_blocked bigint;
  v_due timestamptz;
  v_kind text;
  v_evidence text;
begin
  select * into r from cron_job_runs where id = p_run_id;
  if not found then
    raise sqlstate 'PT404' using message = format('there is no job run %s', p_run_id);
  end if;
  if r.status = 'running' then
    v_beat := pgonce_last_heartbeat(r.id, r.heartbeat_at);
    v_silent := pgonce_elapsed(v_beat, v_now);
    v_running := pgonce_elapsed(r.started_at, v_now);
    v_locked := v_silent > r.run_window / 2 and pgonce_is_job_run_locked(r.id);
    select u.to_ms into v_usual_ms from pgonce_usual_job_duration(r.job_name, r.key) u;
    select x.within into v_within from pgonce_job_expectations x
    where x.job_name = r.job_name and pgonce_is_expected_key(r.key, x.key) and x.within is not null order by x.key desc limit 1;
    select count(*) into v_blocked from (
      select from cron_job_runs b where b.job_name = r.job_name and b.started_at >= r.started_at and b.blocked_by = r.id limit 10000) b;
    v_kind := case
      when v_silent >= r.run_window and not v_locked then 'dead'
      when v_silent > r.run_window / 2 and not v_locked then 'silent'
      when r.stop_requested_at is not null then 'stopping'
      -- twice the usual: a job that takes 9 to 11 minutes is not slow at 12
      when v_running > coalesce(v_within, 2 * v_usual_ms * interval '1 ms') then 'slow'
      when pgonce_elapsed(r.progress_at, v_now) > r.run_window / 2
        and coalesce(v_running > v_usual_ms * interval '1 ms', true) then 'slow'
      else 'at_work' end;
    v_evidence := concat_ws(' ',
      format('Its last heartbeat was %s ago.', pgonce_duration_text(v_silent)),
      case when v_kind = 'dead' then format('Its window, %s, was over %s ago.', pgonce_duration_text(r.run_window),
                                            pgonce_duration_text(v_silent - r.run_window))
           when v_kind = 'silent' then format('It counts as dead in %s.', pgonce_duration_text(r.run_window - v_silent))
           when v_locked then 'An open transaction has locked its row, which is as good as a heartbeat.' end,
      format('It has been running for %s%s.', pgonce_duration_text(v_running),
             coalesce(', usually at most ' || pgonce_duration_text(v_usual_ms * interval '1 ms'), '')),
      'It is expected to take less than ' || pgonce_duration_text(v_within) || '.',
      'It was asked to stop ' || pgonce_duration_text(pgonce_elapsed(r.stop_requested_at, v_now)) || ' ago'
        || case when v_beat > r.stop_requested_at then ', and has sent a heartbeat since.' else ', and has not sent a heartbeat since.' end,
      'Its last progress was ' || pgonce_duration_text(pgonce_elapsed(r.progress_at, v_now)) || ' ago.',
      case when v_blocked > 0 then format('%s skipped because of it.', case v_blocked when 1 then '1 start was' else pgonce_number_text(v_blocked) || ' starts were' end) end,
      'Its process is ' || r.process || '.');
  elsif r.status = 'failed' then
    select d.due_at into v_due from pgonce_job_retries d where d.run_id = r.id;
    v_kind := case
      when pgonce_is_interruption(r.error_message) then 'interrupted'
      when v_due is not null then 'waits_for_retry'
      when r.error_message ~ E'\n' then 'raised'  -- a traceback, or the last lines of a command; pgonce's own reasons have one
      when r.error_message like 'abandoned:%' then 'abandoned'
      when r.error_message like 'ended by hand%' or r.error_message = 'stopped on request' then 'ended'
      when r.error_message like 'timed out after %' then 'timed_out'
      else 'raised' end;
    v_evidence := concat_ws(' ',
      coalesce(pgonce_error_line(r.error_message), 'No reason was given') || coalesce(', at ' || pgonce_error_place(r.error_message), '') || '.',
      case when v_due > v_now then format('The retry starts in %s.', pgonce_duration_text(pgonce_elapsed(v_now, v_due)))
           when v_due is not null then format('The retry has been due for %s; %s.', pgonce_duration_text(pgonce_elapsed(v_due, v_now)),
             case when exists (select from pgonce_live_processes p where r.job_name = any (p.jobs)) then 'a worker has this job'
                  else 'no worker has this job' end) end,
      'Its process was ' || r.process || '.');
  elsif r.status = 'skipped' then
    v_kind := case when r.blocked_by is not null then 'blocked' when r.error_message like 'paused%' then 'paused' else 'given_up' end;
    v_evidence := coalesce(pgonce_error_line(r.error_message), 'No reason was given') || '.';
    if v_kind = 'blocked' then
      v_evidence := coalesce((
        select format('Run %s has %s.', left(b.id::text, 8), case when b.status = 'running'
          then 'been running for ' || pgonce_duration_text(pgonce_elapsed(b.started_at, v_now)) || coalesce(' on ' || b.process, '')
          else format('ended since, as %s', b.status) end)
        from cron_job_runs b where b.id = r.blocked_by), format('Run %s has been deleted since.', left(r.blocked_by::text, 8)));
    elsif v_kind = 'paused' and not exists (select from pgonce_job_pauses p where p.job_name = r.job_name) then
      v_evidence := v_evidence || ' The pause is over.';
    end if;
  else
    return;
  end if;
  return query
    select c.kind, c.needs_person, c.cause, v_evidence, c.action,
           pgonce_command(c.command, case when c.command like '%RUN%' then left(coalesce(r.blocked_by, r.id)::text, 8) else r.job_name end)
    from pgonce_job_causes() c where c.kind = v_kind;
end $$;
comment on function pgonce_diagnose_run(uuid) is
  'pgonce: what is the matter with a run that has not succeeded: what it is, how we know, what to do, and the command that does it (null: '
  'none is needed). No row for a run that has succeeded. PT404 = no such run.';

create or replace function pgonce_diagnose_job(p_job_name text)
returns table (kind text, needs_person boolean, cause text, evidence text, action text, command text)
language plpgsql stable set search_path from current set jit = off as $$
begin
  return query
    select c.kind, c.needs_person, c.cause, format('%s: %s.', pgonce_utc_text(m.scheduled_for), m.reason), c.action, pgonce_command(c.command)
    from pgonce_job_missed m cross join pgonce_job_causes() c
    where m.job_name = p_job_name and c.kind = 'missed' order by m.scheduled_for desc limit 5;
end $$;
comment on function pgonce_diagnose_job(text) is
  'pgonce: the ticks of a job that nothing started, as pgonce_diagnose_run has it.';
