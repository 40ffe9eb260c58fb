-- Deletes old rows in batches. Locked rows are skipped, so that no receiver and no worker waits.

create or replace function pgonce_check_retention_arguments(p_older_than interval, p_limit integer) returns void
language plpgsql immutable set search_path from current as $$
begin
  if coalesce(p_older_than, interval '0') <= interval '0' then
    raise sqlstate '22023' using message = 'the age must be longer than zero';
  elsif coalesce(p_limit, 0) < 1 then
    raise sqlstate '22023' using message = 'the limit must be at least 1';
  end if;
end $$;
comment on function pgonce_check_retention_arguments(interval, integer) is 'pgonce: raises 22023 for an age or a limit of zero or less.';

create or replace function pgonce_delete_unreferenced(p_table text, p_ids uuid[]) returns integer
language plpgsql set search_path from current as $$
declare
  v_id uuid;
  v_rows integer;
  v_deleted integer := 0;
  v_state text;
  v_reason text;
  v_by text;
  v_key text;
begin
  if (p_table in ('webhook_events', 'cron_job_runs')) is not true or p_ids is null then
    raise sqlstate '22023' using message = 'the table must be webhook_events or cron_job_runs, and the ids must be given';
  end if;
  begin
    execute format('delete from %I where id = any ($1)', p_table) using p_ids;
    get diagnostics v_deleted = row_count;
    set constraints all immediate;  -- Django's foreign keys are checked at the commit, which is too late to keep the other rows
    return v_deleted;
  exception when others then
    if not pgonce_is_refusal(sqlstate) then raise; end if;
    v_deleted := 0;
  end;
  foreach v_id in array p_ids loop
    begin
      execute format('delete from %I where id = $1', p_table) using v_id;
      get diagnostics v_rows = row_count;
      set constraints all immediate;
      v_deleted := v_deleted + v_rows;
    exception when others then
      if not pgonce_is_refusal(sqlstate) then raise; end if;
      get stacked diagnostics v_state = returned_sqlstate, v_reason = message_text, v_by = table_name, v_key = constraint_name;
    end;
  end loop;
  if v_deleted = 0 and v_state in ('23503', '23001') then
    raise sqlstate '23503' using
      message = format('rows of table %s keep %s old rows of %s from being deleted: delete those first, or give the foreign key %s '
                       '"on delete set null"', v_by, cardinality(p_ids), p_table, v_key);
  elsif v_deleted = 0 and v_state is not null then
    raise exception using errcode = v_state,
      message = format('%s old rows of %s are kept from being deleted by the database: %s', cardinality(p_ids), p_table, v_reason);
  end if;
  return v_deleted;
end $$;
comment on function pgonce_delete_unreferenced(text, uuid[]) is
  'pgonce: deletes rows, except those that a foreign key of another table refers to (23503 if these are all), or that a trigger of '
  'yours keeps (its error if these are all). Returns how many.';

-- As many rows as one batch has may be kept by a foreign key. Read as the oldest of all, they would be the batch of every call, and
-- hide the younger rows. Where only such rows are left, or this role may not read the other table, they are the batch: the DELETE
-- then says which key it is.
create or replace function pgonce_find_old_rows(p_table text, p_before timestamptz, p_limit integer, p_last uuid[] default '{}')
returns uuid[]
language plpgsql set search_path from current as $$
declare
  v_at text := case p_table when 'webhook_events' then 'received_at' when 'cron_job_runs' then 'started_at' end;
  v_has_ended text := case p_table when 'webhook_events' then $c$
    case when queued then status in ('succeeded', 'ignored') or status = 'failed' and next_attempt_at is null
         else status <> 'processing' or lease_expires_at <= clock_timestamp() end $c$
    else $c$ status <> 'running' $c$ end;
  v_unreferenced text;
  v_ids uuid[];
begin
  if v_at is null then
    raise sqlstate '22023' using message = 'the table must be webhook_events or cron_job_runs';
  end if;
  select coalesce(string_agg(format(' and not exists (select from %s r where %s)', c.conrelid::regclass, (
    select string_agg(format('r.%I = e.%I', own.attname, other.attname), ' and ')
    from unnest(c.conkey, c.confkey) as k (own, other)
    join pg_attribute own on own.attrelid = c.conrelid and own.attnum = k.own
    join pg_attribute other on other.attrelid = c.confrelid and other.attnum = k.other)), ''), '')
  into v_unreferenced
  from pg_constraint c join pg_class t on t.oid = c.conrelid
  where c.contype = 'f' and c.confrelid = p_table::regclass and c.confdeltype in ('a', 'r') and c.conparentid = 0
    and has_schema_privilege(t.relnamespace, 'usage') and has_table_privilege(t.oid, 'select');
  for v_try in 1 .. 2 loop
    execute format('select array(select e.id from %I e where e.%I < $1 and e.id <> all ($3) and %s%s order by e.%2$I limit $2'
                   ' for update of e skip locked)', p_table, v_at, v_has_ended, v_unreferenced)
    into v_ids using p_before, p_limit, p_last;
    exit when v_ids <> '{}' or v_unreferenced = '';
    v_unreferenced := '';
  end loop;
  return v_ids;
end $$;
comment on function pgonce_find_old_rows(text, timestamptz, integer, uuid[]) is
  'pgonce: locks the oldest events or runs that may be deleted, but for those in p_last, and returns their ids. Rows that a foreign key '
  'keeps from being deleted come only when no others are left.';

-- A trigger, because the application deletes events, too: a history holds the errors of handlers, which may quote a payload.
create or replace function pgonce_webhook_events_deleted() returns trigger
language plpgsql set search_path from current set enable_seqscan = off as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from pgonce_webhook_attempts;
  else
    delete from pgonce_webhook_attempts a using gone g where a.event_id = g.id;
  end if;
  return null;
exception when insufficient_privilege then  -- a role that may delete events and nothing else: to refuse it would be worse
  return null;
end $$;
comment on function pgonce_webhook_events_deleted() is
  'pgonce: deletes the history of events together with them, unless the role that deletes them has no right to it.';

create or replace function purge_webhook_events(p_older_than interval default '90 days', p_limit integer default 10000) returns integer
language plpgsql set search_path from current as $$
begin
  perform pgonce_check_retention_arguments(p_older_than, p_limit);
  return pgonce_delete_unreferenced('webhook_events', pgonce_find_old_rows('webhook_events', clock_timestamp() - p_older_than, p_limit));
end $$;
comment on function purge_webhook_events(interval, integer) is
  'pgonce: deletes at most p_limit events older than p_older_than, oldest first. Events that are held or still queued are '
  'never deleted. Returns the number deleted. 23503 = foreign keys of other tables refer to each of them. Stripe can resend an event for 30 days: keep p_older_than at 31 days or more.';

create or replace function purge_job_runs(p_older_than interval default '180 days', p_limit integer default 10000) returns integer
language plpgsql set search_path from current as $$
declare
  v_last uuid[];
begin
  perform pgonce_check_retention_arguments(p_older_than, p_limit);
  -- The last run of each job is found in idx_cron_runs_job_name, in one step per job. The condition "there is no later run"
  -- would be a join of every run with every later one: 1.7 s for 50,000 runs, and the time grows with the square.
  with recursive last (job_name, id) as (
    (select job_name, id from cron_job_runs where status <> 'skipped' order by job_name, started_at desc limit 1)
    union all
    select next.job_name, next.id from last cross join lateral (
      select r.job_name, r.id from cron_job_runs r where r.job_name > last.job_name and r.status <> 'skipped'
      order by r.job_name, r.started_at desc limit 1) as next)
  select array_agg(id) into v_last from last;
  return pgonce_delete_unreferenced('cron_job_runs', pgonce_find_old_rows(
    'cron_job_runs', clock_timestamp() - p_older_than, p_limit, coalesce(v_last, '{}')));
end $$;
comment on function purge_job_runs(interval, integer) is
  'pgonce: deletes at most p_limit runs older than p_older_than, oldest first. A running run and the last run of a job are '
  'never deleted. Returns the number deleted.';

create or replace function pgonce_purge_audit(p_older_than interval default '365 days', p_limit integer default 10000) returns integer
language plpgsql set search_path from current as $$
declare
  v_before timestamptz;
  v_deleted integer;
begin
  perform pgonce_check_retention_arguments(p_older_than, p_limit);
  v_before := clock_timestamp() - p_older_than;
  delete from pgonce_audit where id = any (array(
    select id from pgonce_audit where at < v_before order by at, id limit p_limit for update skip locked));
  get diagnostics v_deleted = row_count;
  return v_deleted;
end $$;
comment on function pgonce_purge_audit(interval, integer) is
  'pgonce: deletes at most p_limit entries of the audit that are older than p_older_than, oldest first. Returns the number deleted.';
