-- Creates the triggers, or creates them again where they differ. "create or replace trigger" would block every writer of the
-- table at each migrate. This comes after the functions, because a trigger that is created blocks the writers until the migrate
-- ends. It is not a function: whoever may call one that executes a definition may execute anything.
--
-- Two of webhook_events only compute columns from other columns of the row. So they are always enabled, also for a role or a
-- session with session_replication_role = replica, and for the apply process of a logical replication, which has the same. The
-- others decide, count and delete, which must happen once, on the publisher.
do $$
declare
  r record;
  v_is_current boolean;
  v_late jsonb := '[]';
begin
  for r in
    select * from (values
      -- enabled, as in pg_trigger: A = always, O = not in a replica. definition, as pg_get_triggerdef prints it in lower case, so that
      -- the two can be compared. late: a statement for the rows that were written while the table had no such trigger.
      ('webhook_events', 'pgonce_before_write', 'A',
       'create trigger pgonce_before_write before insert or update of payload on webhook_events '
       'for each row execute function pgonce_webhook_events_before_write()',
       $late$update webhook_events set payload = payload
       where object_id is null and account is null and livemode is null and payload <> '{}'$late$),
      ('webhook_events', 'pgonce_before_failure', 'A',
       'create trigger pgonce_before_failure before insert or update of error_message on webhook_events '
       'for each row when (new.status = ''failed''::text) execute function pgonce_webhook_events_before_failure()',
       $late$update webhook_events set error_message = error_message where status = 'failed' and failure is null$late$),
      ('webhook_events', 'pgonce_after_delete', 'O',
       'create trigger pgonce_after_delete after delete on webhook_events referencing old table as gone '
       'for each statement execute function pgonce_webhook_events_deleted()', null),
      ('webhook_events', 'pgonce_after_truncate', 'O',
       'create trigger pgonce_after_truncate after truncate on webhook_events '
       'for each statement execute function pgonce_webhook_events_deleted()', null),
      -- start_job_run has checked already, and its rows begin with a heartbeat: the trigger skips them. PostgreSQL parses this
      -- condition again for every INSERT, and a longer one takes longer. So the condition does not mention the status.
      ('cron_job_runs', 'pgonce_before_insert', 'O',
       'create trigger pgonce_before_insert before insert on cron_job_runs for each row '
       'when (new.started_at <> new.heartbeat_at) execute function pgonce_cron_job_runs_before_insert()', null),
      ('cron_job_runs', 'pgonce_after_delete', 'O',
       'create trigger pgonce_after_delete after delete on cron_job_runs referencing old table as gone '
       'for each statement execute function pgonce_cron_job_runs_deleted()', null),
      ('cron_job_runs', 'pgonce_after_truncate', 'O',
       'create trigger pgonce_after_truncate after truncate on cron_job_runs '
       'for each statement execute function pgonce_cron_job_runs_deleted()', null)) t (on_table, name, enabled, definition, late) loop
    v_is_current := (
      select tgenabled = r.enabled::"char" and lower(pg_get_triggerdef(oid, true) collate "C") = r.definition
      from pg_trigger where tgrelid = r.on_table::regclass and tgname = r.name);
    continue when v_is_current;
    execute format('drop trigger if exists %I on %I', r.name, r.on_table);
    execute r.definition;
    if r.enabled = 'A' then
      execute format('alter table %I enable always trigger %I', r.on_table, r.name);
    end if;
    -- An update of all rows of a big table would block its writers for long. While such a table is being adopted,
    -- core/adopt.py does this afterwards, in batches.
    if v_is_current is null and r.late is not null
       and coalesce(obj_description(r.on_table::regclass, 'pg_class'), '') not like 'pgonce: being adopted%' then
      v_late := v_late || jsonb_build_object('on_table', r.on_table, 'statement', r.late);
    end if;
  end loop;
  -- While seed_checkpoints is being adopted: the sums of all time begin with what the table has counted.
  if coalesce(obj_description('seed_checkpoints'::regclass, 'pg_class'), '') !~ '^pgonce: (?!being adopted)' then
    v_late := v_late || jsonb_build_object('on_table', 'seed_checkpoints', 'statement',
      'update seed_checkpoints set rows_seen = rows_inserted::bigint + rows_skipped, total_inserted = rows_inserted,'
      ' total_skipped = rows_skipped where rows_seen = 0 and rows_inserted::bigint + rows_skipped <> 0');
  end if;
  perform set_config('pgonce.fill', v_late::text, true);  -- for install_fill.sql
end $$;
