-- Before the functions are created again, the existing ones are marked: those with a comment and a name of pgonce's. The
-- comment on a function of the user's may begin as theirs do. What still has the mark afterwards is not of this
-- release, and is dropped. A function or view that has to be dropped and created again loses its owner and the rights of other
-- roles: install_grants.sql gives them back by name, so that a new signature gets them, too. Nothing is noted of an object whose
-- owner is not trusted: otherwise a role that may create functions here could have itself made the owner of ours.
do $$
declare
  r record;
  v_here oid := quote_ident(current_schema())::regnamespace;
  v_functions jsonb := current_setting('pgonce.objects')::jsonb -> 'function';
begin
  perform set_config('pgonce.grants', (
    select coalesce(jsonb_agg(g), '[]')::text from (
      with trusted as (
        select oid as owner from pg_roles where rolsuper or rolname = current_user
        union select nspowner from pg_namespace where oid = v_here
        union select relowner from pg_class where relnamespace = v_here and relname = 'pgonce_migrations')
      select 'routine' as kind, p.proname as name, p.proowner as owner, '' as "column",
             a.grantee, a.privilege_type as privilege, a.is_grantable as grantable
      from pg_proc p join trusted on trusted.owner = p.proowner left join aclexplode(p.proacl) a on true
      where p.pronamespace = v_here and obj_description(p.oid, 'pg_proc') like 'pgonce: %'
        and (p.proname like 'pgonce\_%' or v_functions ? p.proname)
      union all
      select 'table', c.relname, c.relowner, t.attname, a.grantee, a.privilege_type, a.is_grantable
      from pg_class c join trusted on trusted.owner = c.relowner
      cross join lateral (
        select '', c.relacl union all
        select attname, attacl from pg_attribute where attrelid = c.oid and attnum > 0 and attacl is not null) t (attname, acl)
      left join aclexplode(t.acl) a on true
      where c.relnamespace = v_here and c.relkind = 'v' and obj_description(c.oid, 'pg_class') like 'pgonce: %'
        and c.relname like 'pgonce\_%') g), true);

  for r in
    select p.oid::regprocedure as signature from pg_proc p
    where p.pronamespace = v_here and obj_description(p.oid, 'pg_proc') like 'pgonce: %'
      and (p.proname like 'pgonce\_%' or v_functions ? p.proname) loop
    execute format('comment on routine %s is %L', r.signature, 'pgonce: stale');
  end loop;
end $$;
