-- Executes the statements of pgonce.fill, each {on_table, statement}: UPDATEs that fill in columns of pgonce's for older rows. A
-- trigger of the user's would take them for changes of the rows: it would write a line of an audit, set a time of the last
-- change, send a request, or refuse the change. So the user's triggers are disabled meanwhile, in the same transaction.
-- pgonce.fill is set by install_triggers.sql, and by core/adopt.py for each batch of a large table.
do $$
declare
  r record;
  t record;
  v_enable text[];
begin
  for r in select * from jsonb_to_recordset(current_setting('pgonce.fill')::jsonb) l (on_table text, statement text) loop
    v_enable := '{}';
    for t in
      select tgname, tgenabled from pg_trigger
      where tgrelid = r.on_table::regclass and not tgisinternal and tgname not like 'pgonce\_%'
        and tgenabled in ('O', 'A') and tgtype & 16 <> 0 loop  -- 16: on UPDATE
      execute format('alter table %I disable trigger %I', r.on_table, t.tgname);
      v_enable := v_enable || format('alter table %I enable %s trigger %I', r.on_table,
                                     case t.tgenabled when 'A' then 'always' else '' end, t.tgname);
    end loop;
    execute r.statement;
    for t in select unnest(v_enable) as enable loop
      execute t.enable;
    end loop;
  end loop;
end $$;
