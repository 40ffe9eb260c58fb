-- Before the functions are rebuilt: mark those that are there. What the files then do not make again is dropped in install_grants.sql.
do $$
declare
  r record;
begin
  for r in
    select p.oid::regprocedure as signature from pg_proc p
    where p.pronamespace = quote_ident(current_schema())::regnamespace and obj_description(p.oid, 'pg_proc') like 'pgonce: %' loop
    execute format('comment on routine %s is %L', r.signature, 'pgonce: stale');
  end loop;
end $$;
