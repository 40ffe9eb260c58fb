-- Before the functions are created again, the existing ones are marked. Those that still have the mark afterwards are dropped
-- in install_grants.sql.
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
