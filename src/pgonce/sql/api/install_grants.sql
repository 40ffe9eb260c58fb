-- Enforces "service-role only". In Supabase the default privileges let anon read a new table in public, and everywhere PUBLIC
-- may execute a new function. This runs at every migrate, so that roles created later get the right privileges, too.
-- Functions are recognized by name and comment, tables and views by their names, and from then on by their comment, too.

do $$
declare
  r record;
  v_objects jsonb := current_setting('pgonce.objects');
  v_tables text;
  v_shut text;
  v_served oid := (select oid from pg_roles where rolname = 'service_role');
begin
  select string_agg(name, ', ') into v_tables from jsonb_array_elements_text((v_objects -> 'table') || (v_objects -> 'view')) name;
  for r in
    select c.oid::regclass as name, c.relkind, obj_description(c.oid, 'pg_class') as comment, c.reloptions
    from unnest(string_to_array(v_tables, ', ')::regclass[]) o join pg_class c on c.oid = o loop
    if coalesce(r.comment, '') not like 'pgonce: %' then
      execute format('comment on %s %s is %L', case r.relkind when 'v' then 'view' else 'table' end, r.name,
                     'pgonce: ' || coalesce(r.comment, 'see docs/sql.md'));
    end if;
    -- Views run with the caller's rights, as the functions do. PostgreSQL 14 cannot do this: there only the grants apply.
    if r.relkind = 'v' and current_setting('server_version_num')::integer >= 150000
       and not coalesce(r.reloptions, '{}') && '{security_invoker=true}' then
      execute format('alter view %s set (security_invoker = true)', r.name);
    end if;
  end loop;

  select string_agg(quote_ident(rolname), ', ') into v_shut from pg_roles where rolname in ('anon', 'authenticated');
  v_shut := concat_ws(', ', 'public', v_shut);
  execute format('revoke all on %s from %s', v_tables, v_shut);
  for r in  -- an identity column's sequence is a relation, too: the default privileges also give access to it
    select s.oid::regclass as name from pg_class s join pg_depend d on d.objid = s.oid and d.deptype in ('a', 'i')
    where s.relkind = 'S' and d.refclassid = 'pg_class'::regclass
      and d.refobjid = any (string_to_array(v_tables, ', ')::regclass[]) loop
    execute format('revoke all on sequence %s from %s', r.name, v_shut);
  end loop;
  if v_served is not null then
    if not has_schema_privilege(v_served, current_schema(), 'usage') then
      execute format('grant usage on schema %I to service_role', current_schema());
    end if;
    execute format('grant select, insert, update, delete on %s to service_role', v_tables);
  end if;

  -- Row-level security may be switched on at any time, in Supabase by an event trigger at every CREATE TABLE. If service_role
  -- lacks BYPASSRLS, a table without a policy is then empty for it. A policy is written only where it differs, because
  -- writing it blocks every writer of the table.
  for r in
    select c.oid::regclass as name, p.oid as policy, v_served is not null as wanted
    from jsonb_array_elements_text(v_objects -> 'table') name
    join pg_class c on c.oid = name::regclass
    left join pg_policy p on p.polrelid = c.oid and p.polname = 'pgonce_service_role'
    where case when v_served is null then p.oid is not null
               else p.oid is null or p.polcmd <> '*' or not p.polpermissive or p.polroles <> array[v_served]
                 or pg_get_expr(p.polqual, c.oid) is distinct from 'true'
                 or pg_get_expr(p.polwithcheck, c.oid) is distinct from 'true' end loop
    if r.policy is not null then
      execute format('drop policy pgonce_service_role on %s', r.name);
    end if;
    if r.wanted then
      execute format('create policy pgonce_service_role on %s to service_role using (true) with check (true)', r.name);
    end if;
  end loop;

  for r in
    select p.oid::regprocedure as signature from pg_proc p
    where p.pronamespace = quote_ident(current_schema())::regnamespace and v_objects -> 'function' ? p.proname
      and obj_description(p.oid, 'pg_proc') like 'pgonce: %' loop
    execute format('revoke all on routine %s from %s', r.signature, v_shut);
    if v_served is not null then
      execute format('grant execute on routine %s to service_role', r.signature);
    end if;
  end loop;

  -- what install_stale.sql has noted of the functions and views, where it was lost
  for r in
    select o.*, g.owner as wanted_owner, g.grantee, g.grantee::regrole as role, g.privilege, g.grantable
    from jsonb_to_recordset(current_setting('pgonce.grants')::jsonb)
      g (kind text, name text, owner oid, "column" text, grantee oid, privilege text, grantable boolean)
    join (
      select 'routine' as kind, p.proname::text as name, '' as "column", p.oid::regprocedure::text as object, p.proowner as owner,
             p.proacl as acl
      from pg_proc p
      where p.pronamespace = quote_ident(current_schema())::regnamespace and obj_description(p.oid, 'pg_proc') like 'pgonce: %'
      union all
      select 'table', c.relname, t.attname, c.oid::regclass::text, c.relowner, t.acl
      from pg_class c
      cross join lateral (
        select '' as attname, c.relacl as acl union all
        select attname, attacl from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped) t
      where c.oid = any (string_to_array(v_tables, ', ')::regclass[]) and c.relkind = 'v') o using (kind, name, "column") loop
    if r.owner <> r.wanted_owner and r.owner = current_user::regrole then
      execute format('alter %s %s owner to %s', r.kind, r.object, r.wanted_owner::regrole);
    end if;
    if r.grantee not in (0, r.wanted_owner) and r.role::text <> all (string_to_array(v_shut, ', '))
        and not exists (select from aclexplode(r.acl) a where a.grantee = r.grantee and a.privilege_type = r.privilege) then
      execute format('grant %s%s on %s %s to %s%s', r.privilege, '(' || quote_ident(nullif(r."column", '')) || ')', r.kind, r.object,
                     r.role, case when r.grantable then ' with grant option' end);
    end if;
  end loop;
end $$;

notify pgrst, 'reload schema';
