-- Drops what "create or replace" cannot change: a function of another result or with arguments of other names, a view of other
-- columns. pgonce.replaced is its kind and name; if it is empty, everything is dropped that this release no longer has. What
-- of pgonce's depends on it goes, too: a later step creates it again. An object of the user's is never dropped. It stops the
-- migrate, which then leaves nothing behind.
do $$
declare
  v_replaced text[] := string_to_array(current_setting('pgonce.replaced'), ' ');
  v_here oid := quote_ident(current_schema())::regnamespace;
  v_objects jsonb := current_setting('pgonce.objects');
  r record;
  v_detail text;
  v_message text;
  v_dependents text[];
begin
  for r in
    with recursive marked as (
      select classoid as class, objoid as oid, description from pg_description where objsubid = 0 and description like 'pgonce: %'),
    ours as (
      select m.class, m.oid, null::oid as type, 'function' as kind, p.proname as name, m.description = 'pgonce: stale' as is_old
      from marked m join pg_proc p on p.oid = m.oid where m.class = 'pg_proc'::regclass and p.pronamespace = v_here
      union all
      select m.class, m.oid, c.reltype, 'view', c.relname, v_replaced[1] = 'view' or not coalesce(v_objects -> 'view' ? c.relname, false)
      from marked m join pg_class c on c.oid = m.oid
      where m.class = 'pg_class'::regclass and c.relnamespace = v_here and c.relkind = 'v' and c.relname like 'pgonce\_%'
      union all
      select 'pg_trigger'::regclass, t.oid, null, 'trigger', t.tgname, not coalesce(v_objects -> 'trigger' ? t.tgname, false)
      from marked m
      join pg_class c on m.class = 'pg_class'::regclass and c.oid = m.oid
      join pg_trigger t on t.tgrelid = c.oid
      join marked f on f.class = 'pg_proc'::regclass and f.oid = t.tgfoid
      where c.relnamespace = v_here and not t.tgisinternal and t.tgname like 'pgonce\_%'),
    gone (class, oid, type, depth) as (
      select class, oid, type, 0 from ours
      where is_old and (v_replaced = '{}' or name = v_replaced[2] and (kind = 'view') = (v_replaced[1] = 'view'))
      union all
      select o.class, o.oid, o.type, g.depth + 1
      from gone g
      join pg_depend d on d.refclassid in (g.class, 'pg_type'::regclass) and d.refobjid in (g.oid, g.type)
                      and d.refobjid = case d.refclassid when g.class then g.oid else g.type end
      left join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
      join ours o on o.class = case when w.oid is null then d.classid else 'pg_class'::regclass end
                 and o.oid = coalesce(w.ev_class, d.objid)
      where (o.class, o.oid) <> (g.class, g.oid) and g.depth < 20)
    select i.type || ' ' || i.identity as object
    from gone g cross join pg_identify_object(g.class, g.oid, 0) i group by 1 order by max(g.depth) desc, 1 loop
    begin
      execute 'drop ' || r.object;
    exception when dependent_objects_still_exist then
      get stacked diagnostics v_detail = pg_exception_detail, v_message = message_text;
      if v_detail <> '' then  -- an extension is named by the message alone
        v_dependents := string_to_array(v_detail, E'\n');
        v_message := format('%s, which this release changes or removes%s', v_dependents[1],
          case when cardinality(v_dependents) > 1 then format(' (and %s more)', cardinality(v_dependents) - 1) end);
      end if;
      raise sqlstate 'PGO01' using message = v_message || ': drop what depends on it, migrate, and create it again';
    end;
  end loop;
end $$;
