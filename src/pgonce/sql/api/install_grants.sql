-- "Service-role only", made true. In Supabase a new table in public is readable by anon through the default privileges, and
-- everywhere a new function is executable by PUBLIC. Run at every migrate, so that roles made later are served, or shut out, too.
-- Our functions are known by their comment, our tables by name. A function that this release no longer has was marked
-- stale before the files above ran, and still is: it goes.

do $$
declare
  r record;
  v_tables text := 'webhook_events, cron_job_runs, seed_checkpoints, pgonce_migrations, '
    'pgonce_job_retries, pgonce_job_schedules, pgonce_job_stats, pgonce_job_overlaps, pgonce_job_missed, pgonce_seed_rejects, pgonce_seed_partitions, pgonce_seed_batches, pgonce_alerts, pgonce_alert_channels, '
    'pgonce_processes, pgonce_live_processes';
  v_shut text;
begin
  for r in
    select p.oid::regprocedure as signature, p.prokind from pg_proc p
    where p.pronamespace = quote_ident(current_schema())::regnamespace and obj_description(p.oid, 'pg_proc') = 'pgonce: stale' loop
    execute format('drop routine %s', r.signature);
  end loop;

  select string_agg(quote_ident(rolname), ', ') into v_shut from pg_roles where rolname in ('anon', 'authenticated');
  v_shut := concat_ws(', ', 'public', v_shut);
  execute format('revoke all on %s from %s', v_tables, v_shut);
  for r in  -- an identity column's sequence is a relation of its own: the default privileges open it, too
    select s.oid::regclass as name from pg_class s join pg_depend d on d.objid = s.oid and d.deptype in ('a', 'i')
    where s.relkind = 'S' and d.refclassid = 'pg_class'::regclass
      and d.refobjid = any (string_to_array(v_tables, ', ')::regclass[]) loop
    execute format('revoke all on sequence %s from %s', r.name, v_shut);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    execute format('grant usage on schema %I to service_role', current_schema());
    execute format('grant select, insert, update, delete on %s to service_role', v_tables);
  end if;

  for r in
    select p.oid::regprocedure as signature from pg_proc p
    where p.pronamespace = quote_ident(current_schema())::regnamespace and obj_description(p.oid, 'pg_proc') like 'pgonce: %' loop
    execute format('revoke all on routine %s from %s', r.signature, v_shut);
    if exists (select from pg_roles where rolname = 'service_role') then
      execute format('grant execute on routine %s to service_role', r.signature);
    end if;
  end loop;
end $$;

notify pgrst, 'reload schema';
