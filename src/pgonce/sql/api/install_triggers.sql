-- Creates the triggers, or creates them again where they differ. "create or replace trigger" would block every writer of the
-- table at each migrate. This file is one of the last, because a trigger that is created blocks the writers until the migrate
-- ends. p_definition is written as pg_get_triggerdef prints it, in lower case, so that the two can be compared.

create or replace function pgonce_ensure_trigger(p_table text, p_name text, p_definition text) returns boolean
language plpgsql set search_path from current as $$
declare
  v_is_current boolean;
begin
  select tgenabled <> 'D' and lower(pg_get_triggerdef(oid, true)) = p_definition into v_is_current
  from pg_trigger where tgrelid = quote_ident(p_table)::regclass and tgname = p_name;
  if v_is_current then return false; end if;
  execute format('drop trigger if exists %I on %I', p_name, p_table);
  execute p_definition;
  return v_is_current is null;
end $$;
comment on function pgonce_ensure_trigger(text, text, text) is
  'pgonce: creates a trigger, or creates it again where it differs. true = there was none of that name.';

do $$ begin
  if pgonce_ensure_trigger('webhook_events', 'pgonce_before_write',
      'create trigger pgonce_before_write before insert or update of payload on webhook_events '
      'for each row execute function pgonce_webhook_events_before_write()') then
    -- The rows of an adopted table, or those that were written while the trigger was missing: an update of all rows would
    -- block their writers for long. For a big adopted table core/adopt.py does this afterwards, in batches.
    update webhook_events set payload = payload
    where object_id is null and account is null and livemode is null and payload <> '{}'
      and coalesce(obj_description('webhook_events'::regclass, 'pg_class'), '') not like 'pgonce: being adopted%';
  end if;
end $$;

do $$ begin
  if pgonce_ensure_trigger('webhook_events', 'pgonce_before_failure',
      'create trigger pgonce_before_failure before insert or update of error_message on webhook_events '
      'for each row when (new.status = ''failed''::text) execute function pgonce_webhook_events_before_failure()') then
    update webhook_events set error_message = error_message where status = 'failed' and failure is null;
  end if;
end $$;

-- start_job_run has checked already, and its rows begin with a heartbeat: the trigger skips them. PostgreSQL parses this
-- condition again for every INSERT, and a longer one takes longer. So the condition does not mention the status.
do $$ begin
  perform pgonce_ensure_trigger('cron_job_runs', 'pgonce_before_insert',
    'create trigger pgonce_before_insert before insert on cron_job_runs for each row '
    'when (new.started_at <> new.heartbeat_at) execute function pgonce_cron_job_runs_before_insert()');
end $$;

do $$ begin
  perform pgonce_ensure_trigger('cron_job_runs', 'pgonce_after_delete',
    'create trigger pgonce_after_delete after delete on cron_job_runs referencing old table as gone '
    'for each statement execute function pgonce_cron_job_runs_deleted()');
  perform pgonce_ensure_trigger('cron_job_runs', 'pgonce_after_truncate',
    'create trigger pgonce_after_truncate after truncate on cron_job_runs '
    'for each statement execute function pgonce_cron_job_runs_deleted()');
end $$;
