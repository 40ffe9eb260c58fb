-- Reports what would undo the grants, and tables that a crash empties, at every migrate. `pgonce migrate --check` calls the
-- same function.

create or replace function pgonce_schema_warnings(p_schema text default current_schema()) returns setof text
language sql stable set search_path = pg_catalog as $$  -- so that every name is printed with its schema
  with installed as (
    select n.oid, n.nspname, n.nspowner, n.nspacl, c.relowner as owner
    from pg_namespace n join pg_class c on c.relnamespace = n.oid and c.relname = 'pgonce_migrations' where n.nspname = p_schema),
  trusted as (  -- the owner of the schema, that of the tables, members of these, and superusers can change any of our objects
    select r.oid from pg_roles r, installed i where pg_has_role(r.oid, i.owner, 'member') or pg_has_role(r.oid, i.nspowner, 'member')),
  shut as (select oid from pg_roles where rolname in ('anon', 'authenticated')),
  relations as (
    select c.* from pg_class c join installed i on i.oid = c.relnamespace
    where c.relkind in ('r', 'v') and obj_description(c.oid, 'pg_class') like 'pgonce: %'
      and (c.relname like 'pgonce\_%' or c.relname in ('webhook_events', 'cron_job_runs', 'seed_checkpoints'))),
  objects as (
    select case relkind when 'v' then 'view' else 'table' end as kind, oid, oid::regclass::text as name, relowner as owner,
           coalesce(relacl, acldefault('r', relowner)) as acl, relpersistence, relforcerowsecurity
    from relations
    union all
    select 'sequence', s.oid, s.oid::regclass::text, s.relowner, coalesce(s.relacl, acldefault('s', s.relowner)), null, null
    from relations r
    join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid and d.classid = 'pg_class'::regclass
                    and d.deptype in ('a', 'i')
    join pg_class s on s.oid = d.objid and s.relkind = 'S'
    union all
    select case p.prokind when 'p' then 'procedure' else 'function' end, p.oid, p.oid::regprocedure::text, p.proowner,
           coalesce(p.proacl, acldefault('f', p.proowner)), null, null
    from pg_proc p join installed i on i.oid = p.pronamespace
    where obj_description(p.oid, 'pg_proc') like 'pgonce: %'
      -- the names are set by migrate and its check; other callers get a line too many for a comment of the user's that begins so
      and (p.proname like 'pgonce\_%' or coalesce(nullif(current_setting('pgonce.objects', true), '')::jsonb -> 'function' ? p.proname, true))),
  grants as (
    select o.kind, o.name, o.owner, a.grantor, a.grantee, a.privilege_type as privilege from objects o, aclexplode(o.acl) a
    union all
    select o.kind, o.name, o.owner, a.grantor, a.grantee, format('%s (%I)', a.privilege_type, t.attname)
    from objects o join pg_attribute t on o.kind in ('table', 'view') and t.attrelid = o.oid, aclexplode(t.attacl) a
    union all
    select 'schema', quote_ident(i.nspname), i.nspowner, a.grantor, a.grantee, a.privilege_type from installed i, aclexplode(i.nspacl) a),
  open as (
    select g.*, case g.grantee when 0 then 'PUBLIC' else g.grantee::regrole::text end as role,
           -- what somebody else than the owner has granted can only be revoked together with the right to grant it
           case when g.grantor <> g.owner then 'grant option for ' else '' end as with_option,
           case when g.grantor <> g.owner then g.grantor::regrole::text || ' cascade'
                when g.grantee = 0 then 'PUBLIC' else g.grantee::regrole::text end as revoked_from
    from grants g)
  select format('role %1$s may create objects in schema %2$s, and a function of its making could run with the rights of pgonce''s '
                'callers; to close this: revoke %3$screate on schema %4$s from %5$s', role, p_schema, with_option, name, revoked_from)
  from open where kind = 'schema' and privilege = 'CREATE' and grantee not in (select oid from trusted)
  union all
  select format('%1$s %2$s belongs to role %3$s, who can change what it does; to close this: alter %1$s %2$s owner to %4$s',
                o.kind, o.name, o.owner::regrole, i.owner::regrole)
  from objects o, installed i where o.owner not in (select oid from trusted)
  union all
  select format('%1$s %2$s hides its rows from its owner %3$s, and pgonce with them; to close this: alter %1$s %2$s no force row level security',
                o.kind, o.name, o.owner::regrole)
  from objects o join pg_roles r on r.oid = o.owner
  where o.kind = 'table' and o.relforcerowsecurity and not r.rolsuper and not r.rolbypassrls
    and not exists (select from pg_roles s where s.rolname = 'service_role' and pg_has_role(r.oid, s.oid, 'usage'))
  union all
  select format('%1$s %2$s is unlogged, so that a crash of the server empties it; to close this: alter %1$s %2$s set logged', o.kind, o.name)
  from objects o where o.kind = 'table' and o.relpersistence = 'u'
  union all
  select format('role %1$s may %2$s %3$s %4$s; to close this: revoke %5$s%6$s on %7$s %4$s from %8$s', role,
                string_agg(distinct privilege, ', '), kind, name, with_option, case when is_shut then 'all' else 'trigger' end,
                replace(kind, 'view', 'table'), revoked_from)
  from open cross join lateral (select grantee = 0 or grantee in (select oid from shut)) s (is_shut)
  where kind <> 'schema'
    and (is_shut
         -- a trigger runs with the rights of the role that writes to the table
         or (privilege = 'TRIGGER' and grantee <> owner and grantee not in (select oid from trusted)
             and grantee not in (select oid from pg_roles where rolname = 'service_role')))
  group by role, kind, name, with_option, is_shut, revoked_from
  union all
  select format('role %1$s is a member of %2$s, which has rights in pgonce''s tables or functions; to close this: revoke %2$s from %1$s',
                m.member::regrole, m.roleid::regrole)
  from pg_auth_members m
  where m.member in (select oid from shut)
    and exists (select from grants g where g.kind <> 'schema' and g.grantee <> 0 and g.grantee not in (select oid from shut)
                and pg_has_role(m.roleid, g.grantee, 'member'))
$$;
comment on function pgonce_schema_warnings(text) is
  'pgonce: what lets other roles change or reach an installation, or a crash empty it. Each line has the statement that fixes it.';
