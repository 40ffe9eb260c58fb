-- What state an import is in, how that is known, and what to do: for `pgonce seed show`, the console and the page docs/seeds.md.

-- The sentences are also the table in docs/seeds.md (tools/diagnoses.py). RUN and NAME in a command are the run and the import.
-- The last three are what a command prints before it has written anything.
create or replace function pgonce_seed_causes()
returns table (kind text, needs_person boolean, row_says text, cause text, action text, command text)
language plpgsql immutable parallel safe set search_path from current as $$  -- as pgonce_job_causes
begin
  return query values
    ('at_work', false, '`in_progress`, and a batch was committed a moment ago',
     'It is running.',
     'Nothing.',
     null),
    ('stalled', true, '`in_progress`, its runner is alive, and no batch was committed for 10 times as long as usual',
     'It stands still: its source is slow, or the table is locked.',
     'Look at its process. To be rid of it, end its run: the next one resumes at the checkpoint.',
     'pgonce job end RUN --reason ''it stands still'''),
    ('pausing', false, '`paused_at` is set, and its runner is alive',
     'It was asked to pause, and stops after its batch.',
     'Wait, or withdraw the pause.',
     'pgonce seed resume NAME'),
    ('paused', true, '"paused", exit code 75',
     'It is paused.',
     'Withdraw the pause, and run it again: it resumes at its checkpoint.',
     'pgonce seed resume NAME'),
    ('dead', true, '"skipped, another runner is at work on it", and the run sends no heartbeats',
     'Its runner was killed, or cannot reach the database.',
     'Wait until its window (two minutes) is over. If it is gone for certain, end its run. Then run the import again.',
     'pgonce job end RUN --reason ''its process is gone'''),
    ('left', true, '`in_progress`, `last_updated_at` is long ago, no runner',
     'It was stopped, or died.',
     'Run it again, by the same command: it resumes at its checkpoint.',
     'pgonce seed run NAME --app MODULE:APP'),
    ('source_changed', true, '"the source of … has changed since row …"',
     'The fingerprint of its source is not what it was at the checkpoint.',
     'Run it with `--restart` (rows that are there are skipped), or with `--accept-change`.',
     'pgonce seed run NAME --app MODULE:APP --restart'),
    ('table_changed', true, '"has not the rows of the last batch", "belongs to table …", "is empty, and … rows were inserted", "was it made anew?"',
     'The table was emptied, it or a column was created anew, or the name was used for another table.',
     'Run it with `--restart`, with `--accept-change`, or under another `--name`.',
     'pgonce seed run NAME --app MODULE:APP --restart'),
    ('bad_row', true, '"a row does not fit into …"',
     'A row does not fit, and no rejects are allowed, or no more.',
     'Fix the row, or allow some: `--max-rejects`. Then run it again.',
     'pgonce seed show NAME'),
    ('unfinished', true, '`failed`, and the last run ended as `unfinished`',
     'Its source ended before its end, for example with half a line.',
     'Complete the source, and run the import again, by the same command: it resumes at its checkpoint.',
     'pgonce seed run NAME --app MODULE:APP'),
    ('raised', true, '`failed`, any other text',
     'The source or the database raised an error.',
     'Fix it, and run the import again: it resumes at its checkpoint.',
     'pgonce seed run NAME --app MODULE:APP'),
    ('differs', true, '`verified` is not `ok`',
     'It is complete, but the table and the source are not equal.',
     'Look at the keys that it names. Run it with `--restart`, and with `--on-conflict update` if rows changed.',
     'pgonce seed run NAME --app MODULE:APP --restart'),
    ('has_rejects', true, '`complete`, and `rows_rejected` is not 0',
     'It is complete, except for the rows that were rejected.',
     'Fix the table, or what it refers to, and retry them. Or fix the source, and run it with `--restart`.',
     'pgonce seed retry-rejects NAME --app MODULE:APP'),
    ('unlogged', true, '"is unlogged"',
     'A crash of the server would empty the table, and the checkpoint would stay.',
     '`alter table … set logged`',
     null),
    ('no_key', true, '"has no plain unique index over …"',
     'The key cannot tell which rows are there.',
     'Create that index: `create unique index on lexicon (number)`',
     null),
    ('unstable', true, 'rows are missing that lie before the cursor',
     'The order of the source is not stable, or it has changed.',
     'Run it with `--restart`: rows that are there are skipped.',
     'pgonce seed run NAME --app MODULE:APP --restart');
end $$;
comment on function pgonce_seed_causes() is
  'pgonce: everything that can be the matter with an import: what is said about it, what it is, what to do and which command does it. '
  'needs_person: nothing happens by itself.';

create or replace function pgonce_diagnose_seed(p_seed_name text)
returns table (kind text, needs_person boolean, cause text, evidence text, action text, command text)
language plpgsql stable set search_path from current as $$
declare
  s seed_checkpoints;
  v_now timestamptz := clock_timestamp();
  -- `pgonce seed load` names its imports TABLE:FILE; how it was called is not known here
  v_is_file boolean := position(':' in p_seed_name) > 0;
  v_run uuid;
  v_alive boolean;
  v_process text;
  v_dead_after timestamptz;
  v_last timestamptz;
  v_usual interval;
  v_kind text;
  v_evidence text;
begin
  select * into s from seed_checkpoints where seed_name = p_seed_name;
  if not found then
    raise sqlstate 'PT404' using message = format('the seed %L has never run here', p_seed_name);
  end if;
  select w.run_id, w.alive, r.process, pgonce_last_heartbeat(r.id, r.heartbeat_at) + r.run_window
    into v_run, v_alive, v_process, v_dead_after
  from pgonce_get_runners(p_seed_name) w join cron_job_runs r on r.id = w.run_id
  order by w.alive desc, r.started_at limit 1;
  select b.last, b.usual into v_last, v_usual from pgonce_usual_seed_batch(p_seed_name) b;
  v_last := greatest(v_last, (select r.started_at from cron_job_runs r where r.id = v_run));
  v_kind := case
    when v_alive and s.paused_at is not null then 'pausing'
    when s.paused_at is not null then 'paused'
    when v_alive and pgonce_elapsed(v_last, v_now) > greatest(10 * v_usual, '30 s') then 'stalled'
    when v_alive then 'at_work'
    when v_run is not null then 'dead'
    when s.status = 'in_progress' then 'left'
    when s.status = 'failed' then case
      when s.error_message ~ '\mSourceChanged: ' then 'source_changed'
      when s.error_message ~ '\mTableChanged: ' then 'table_changed'
      when s.error_message ~ '\mRowRejected: ' then 'bad_row'
      when (select r.scope ->> 'outcome' from (
              select * from cron_job_runs h where h.job_name = 'seed_runner' order by h.job_name, h.started_at desc limit 5000) r
            where r.key = p_seed_name and coalesce(r.scope ->> 'seed_name', p_seed_name) = p_seed_name and r.status <> 'skipped'
            order by r.started_at desc limit 1) = 'unfinished' then 'unfinished'
      else 'raised' end
    when s.verified ->> 'ok' = 'false' then 'differs'
    when s.rows_rejected > 0 then 'has_rejects'
  end;
  if v_kind is null then return; end if;
  v_evidence := concat_ws(' ',
    case when v_kind in ('at_work', 'stalled', 'pausing') then
      'Its last batch was ' || pgonce_duration_text(pgonce_elapsed(v_last, v_now)) || ' ago'
        || coalesce(', usually one is committed every ' || pgonce_duration_text(v_usual), '') || '.' end,
    case when s.paused_at is not null then format('It was asked to pause %s ago.', pgonce_duration_text(pgonce_elapsed(s.paused_at, v_now))) end,
    case when v_kind = 'dead' then format('Run %s has sent no heartbeat for its window, which ended %s ago.', left(v_run::text, 8),
                                          pgonce_duration_text(pgonce_elapsed(v_dead_after, v_now))) end,
    case when v_kind in ('left', 'paused') then
      format('Its last batch was %s ago, at row %s, and no runner is at work.', pgonce_duration_text(pgonce_elapsed(s.last_updated_at, v_now)), pgonce_number_text(s.rows_seen)) end,
    case when s.status = 'failed' and v_run is null then
      coalesce(pgonce_error_line(s.error_message), 'No reason was given') || coalesce(', at ' || pgonce_error_place(s.error_message), '') || '.' end,
    case v_kind when 'differs' then format('Of %s keys %s are missing and %s are different.', pgonce_number_text((s.verified ->> 'keys')::bigint),
             pgonce_number_text((s.verified ->> 'missing')::bigint), pgonce_number_text((s.verified ->> 'different')::bigint))
                when 'has_rejects' then format('%s of %s rows were rejected.', pgonce_number_text(s.rows_rejected), pgonce_number_text(s.rows_seen)) end,
    case when v_alive or v_kind = 'dead' then 'Its process is ' || v_process || '.' end);
  return query
    select c.kind, c.needs_person, c.cause, v_evidence, c.action,
           case when not (v_is_file and c.command like '% --app %') then
             pgonce_command(c.command, case when c.command like '%RUN%' then left(v_run::text, 8) else p_seed_name end) end
    from pgonce_seed_causes() c where c.kind = v_kind;
end $$;
comment on function pgonce_diagnose_seed(text) is
  'pgonce: what is the matter with an import: what it is, how we know, what to do, and the command that does it (null: none is needed, or it '
  'is the command that started the import). No row for one that is complete. PT404 = it has never run.';

create or replace function pgonce_usual_seed_batch(p_seed_name text, out last timestamptz, out usual interval)
language sql stable set search_path from current as $$
  select max(b.committed_at), percentile_cont(0.5) within group (order by b.took)
  from (select n.committed_at, pgonce_elapsed(lag(n.committed_at) over (partition by n.partition order by n.batch), n.committed_at) as took
        from pgonce_seed_batches n where n.seed_name = p_seed_name) b
$$;
comment on function pgonce_usual_seed_batch(text) is
  'pgonce: when the last batch of an import was committed, and how long its last 60 batches usually took.';
