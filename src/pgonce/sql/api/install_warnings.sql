-- Reports what would undo the grants, and tables that a crash empties, at every migrate. `pgonce migrate --check` calls the
-- same function.

create or replace function pgonce_schema_warnings(p_schema text default current_schema()) returns setof text
language sql stable set search_path = pg_catalog as $$  -- so that every name is printed with its schema
  with installed as (
    select n.oid, n.nspname, n.nspowner, n.nspacl, c.relowner as owner
    from pg_namespace n join pg_class c on c.relnamespace = n.oid and c.relname = 'pgonce_migrations' where n.nspname = p_schema),
  trusted as (  -- the owner of the schema and superusers can change any of our objects
    select owner as oid from installed union select nspowner from installed union select oid from pg_roles where rolsuper),
  objects as (
    select case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind, c.oid::regclass::text as name,
           c.relowner as owner, coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)) as acl
    from pg_class c join installed i on i.oid = c.relnamespace
    where obj_description(c.oid, 'pg_class') like 'pgonce: %' and c.relkind in ('r', 'v', 'S')
    union all
    select case p.prokind when 'p' then 'procedure' else 'function' end, p.oid::regprocedure::text, p.proowner,
           coalesce(p.proacl, acldefault('f', p.proowner))
    from pg_proc p join installed i on i.oid = p.pronamespace where obj_description(p.oid, 'pg_proc') like 'pgonce: %')
  select format('role %1$s may create objects in schema %2$s, and a function of its making could run with the rights of pgonce''s '
                'callers; to close this: revoke create on schema %2$I from %1$s',
                case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end, i.nspname)
  from installed i, aclexplode(i.nspacl) a
  where a.privilege_type = 'CREATE' and a.grantee not in (select oid from trusted)
  union all
  select format('%1$s %2$s belongs to role %3$s, who can change what it does; to close this: alter %1$s %2$s owner to %4$s',
                o.kind, o.name, o.owner::regrole, i.owner::regrole)
  from objects o, installed i where o.owner not in (select oid from trusted)
  union all
  select format('%1$s %2$s hides its rows from its owner %3$s, and pgonce with them; to close this: alter %1$s %2$s no force row level security',
                o.kind, o.name, o.owner::regrole)
  from objects o join pg_class c on c.oid = to_regclass(o.name) join pg_roles r on r.oid = o.owner
  where o.kind = 'table' and c.relforcerowsecurity and not r.rolsuper and not r.rolbypassrls
    and not exists (select from pg_roles s where s.rolname = 'service_role' and pg_has_role(r.oid, s.oid, 'usage'))
  union all
  select format('%1$s %2$s is unlogged, so that a crash of the server empties it; to close this: alter %1$s %2$s set logged', o.kind, o.name)
  from objects o join pg_class c on c.oid = to_regclass(o.name) where o.kind = 'table' and c.relpersistence = 'u'
  union all
  select format('role %s may %s %s %s; to close this: revoke all on %s %s from %1$s',
                case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end,
                string_agg(distinct a.privilege_type, ', '), o.kind, o.name, replace(o.kind, 'view', 'table'), o.name)
  from objects o, aclexplode(o.acl) a
  where (a.grantee = 0 or a.grantee in (select oid from pg_roles where rolname in ('anon', 'authenticated'))
         -- a trigger runs with the rights of the role that writes to the table
         or (a.privilege_type = 'TRIGGER' and a.grantee <> o.owner and a.grantee not in (select oid from trusted)
             and a.grantee not in (select oid from pg_roles where rolname = 'service_role')))
  group by a.grantee, o.kind, o.name
$$;
comment on function pgonce_schema_warnings(text) is
  'pgonce: what lets other roles change or reach an installation, or a crash empty it. Each line has the statement that fixes it.';
