-- Checked before anything is written: no object in the schema may have one of pgonce's names and belong to somebody else.
-- Only names are compared, not the arguments of functions: PostgREST could not choose between two functions of one name, and
-- a call could reach the wrong one. pgonce's objects are recognized by their comment ("pgonce: ..."), indexes and triggers by
-- their table. The three tables of the specification may have been created by hand: they are adopted if they are as
-- specified. pgonce.objects and pgonce.specification are made from the SQL files by core/schema_sql.py.
do $$
declare
  v_schema text := current_schema();
  v_elsewhere text := format('install pgonce in a schema of its own (--schema %s; PostgREST must then expose that schema)',
                             case when v_schema = 'pgonce' then 'pgonce_2' else 'pgonce' end);
  v_objects jsonb := current_setting('pgonce.objects');
  v_owner oid;
  v_is_installed boolean;
  v_found text[];
  v_table record;
  v_index record;
  v_wrong text;
  v_alter text;
begin
  -- Comments may be lost, by pg_restore --no-comments or a comment of the user's. An installation is known by the rows of
  -- pgonce_migrations. In it a table or view is pgonce's by its prefix or by the columns that migrate adds, a function by the
  -- search_path that each of ours has; if no comment is left, by its name. In each case the owner must be the same.
  select c.relowner into v_owner from pg_class c join pg_attribute a on a.attrelid = c.oid
  where c.relname = 'pgonce_migrations' and c.relkind = 'r' and c.relnamespace = quote_ident(v_schema)::regnamespace
    and a.attname = 'name' and a.atttypid = 'text'::regtype;
  if v_owner is not null and to_regclass(format('%I.webhook_events', v_schema)) is not null then
    execute format('select exists (select from %I.pgonce_migrations m where to_jsonb(m) @> ''{"version": 1, "name": "tables"}'')', v_schema)
    into v_is_installed;
  end if;
  if v_is_installed then
    for v_table in
      select format('%s %s', case c.relkind when 'v' then 'view' else 'table' end, c.oid::regclass) as object,
             obj_description(c.oid, 'pg_class') as theirs
      from pg_class c
      where c.relnamespace = quote_ident(v_schema)::regnamespace and c.relowner = v_owner
        and coalesce(v_objects -> case c.relkind when 'v' then 'view' when 'r' then 'table' end ? c.relname, false)
        and coalesce(obj_description(c.oid, 'pg_class'), '') not like 'pgonce: %'
        and (c.relname like 'pgonce\_%' or exists (
          select from pg_attribute a where a.attrelid = c.oid
          having array_agg(a.attname::text) @> array(select jsonb_array_elements_text(
            current_setting('pgonce.specification')::jsonb -> c.relname -> 'added'))))
      union all
      select format('routine %s', p.oid::regprocedure), null
      from pg_proc p
      where p.pronamespace = quote_ident(v_schema)::regnamespace and p.proowner = v_owner and v_objects -> 'function' ? p.proname
        and coalesce(obj_description(p.oid, 'pg_proc'), '') not like 'pgonce: %'
        and (exists (select from unnest(p.proconfig) c where c like 'search_path=%, pg\_temp')
             or not exists (select from pg_proc o where o.pronamespace = p.pronamespace and obj_description(o.oid, 'pg_proc') like 'pgonce: %')) loop
      execute format('comment on %s is %L', v_table.object, 'pgonce: ' || coalesce(v_table.theirs, 'see docs/sql.md'));
    end loop;
  end if;

  with ours as (
    select k.key as kind, n as name from jsonb_each(v_objects) k, jsonb_array_elements_text(k.value) n),
  relations as (
    select c.*, coalesce(obj_description(c.oid, 'pg_class'), '') like 'pgonce: %' as is_ours
    from pg_class c where c.relnamespace = quote_ident(v_schema)::regnamespace),
  tables as (
    select r.* from relations r join ours o on o.name = r.relname and o.kind = 'table'),
  strangers as (
    select format('%s %s', case r.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'f' then 'foreign table'
                             when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' when 'c' then 'type'
                             else 'index' end, r.relname) as object
    from ours o join relations r on r.relname = o.name
    where o.kind in ('table', 'view', 'index', 'sequence', 'type') and not case o.kind
      when 'table' then r.relkind = 'r' and (r.is_ours or current_setting('pgonce.specification')::jsonb ? r.relname)
      when 'index' then r.relkind = 'i' and exists (
        select from pg_index x join tables t on t.oid = x.indrelid
        where x.indexrelid = r.oid and (t.is_ours or r.relname not like 'pgonce\_%'))
      else r.relkind = 'v' and r.is_ours end
    union  -- a table of pgonce's for a moment, see below
    select 'table pgonce_shape' from relations r where r.relname = 'pgonce_shape'
    union
    select format('type %s', t.typname)
    from ours o join pg_type t on t.typname = o.name and t.typnamespace = quote_ident(v_schema)::regnamespace
    where o.kind in ('table', 'view', 'type') and t.typrelid = 0 and t.typelem = 0
    union
    select format('%s %s(%s)', case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
                  p.proname, pg_get_function_identity_arguments(p.oid))
    from ours o join pg_proc p on p.proname = o.name and p.pronamespace = quote_ident(v_schema)::regnamespace
    where o.kind = 'function' and coalesce(obj_description(p.oid, 'pg_proc'), '') not like 'pgonce: %'
    union
    select format('trigger %s on %s', g.tgname, t.relname)
    from ours o join pg_trigger g on g.tgname = o.name join tables t on t.oid = g.tgrelid
    where o.kind = 'trigger' and not g.tgisinternal and coalesce(obj_description(g.tgfoid, 'pg_proc'), '') not like 'pgonce: %'
    union
    select format('policy %s on %s', y.polname, t.relname)
    from ours o join pg_policy y on y.polname = o.name join tables t on t.oid = y.polrelid
    where o.kind = 'policy' and not t.is_ours)
  select array_agg(object order by object) into v_found from strangers;

  if v_found is not null then
    raise sqlstate 'PGO01' using message = format('%s in schema %s is not pgonce''s%s: rename it, or %s', v_found[1], v_schema,
      case when cardinality(v_found) > 1 then format(' (nor are %s more)', cardinality(v_found) - 1) end, v_elsewhere);
  end if;

  for v_table in
    select c.oid, c.relname as name, c.relpersistence, c.reloftype, c.relispartition or c.relhassubclass
             or exists (select from pg_inherits i where i.inhrelid = c.oid) as inherits,
           coalesce(obj_description(c.oid, 'pg_class'), '') like 'pgonce: %' as is_ours,
           s.value ->> 'columns' as columns, s.value -> 'indexes' as indexes, s.value -> 'added' as added
    from jsonb_each(current_setting('pgonce.specification')::jsonb) s
    join pg_class c on c.relname = s.key and c.relnamespace = quote_ident(v_schema)::regnamespace
    -- Without an installation the comment of pgonce's may be from before `pgonce uninstall`, or half of an adoption.
    where v_is_installed is not true or coalesce(obj_description(c.oid, 'pg_class'), '') not like 'pgonce: %' order by c.relname loop

    execute format('create table pgonce_shape %s', v_table.columns);
    for v_index in select key as name, value, row_number() over () as n from jsonb_each_text(v_table.indexes) loop
      execute format('create index pgonce_shape_%s on pgonce_shape %s', v_index.n, v_index.value);
    end loop;

    with columns as (
      select a.attrelid, a.attname as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull, a.attgenerated, a.attidentity,
             a.attcollation, pg_get_expr(d.adbin, d.adrelid) as expression
      from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
      where a.attrelid in ('pgonce_shape'::regclass, v_table.oid) and a.attnum > 0 and not a.attisdropped),
    pairs as (
      select coalesce(s.name, t.name) as name, s.name is not null as specified, t.name is not null as present,
             s.type as wanted, t.type, s.attnotnull as wanted_not_null, t.attnotnull, s.expression as wanted_default, t.expression,
             t.attgenerated, t.attidentity, t.attcollation <> s.attcollation as collated
      from (select * from columns where attrelid = 'pgonce_shape'::regclass) s
      full join (select * from columns where attrelid = v_table.oid) t on s.name = t.name),
    wrong as (
      select case when not specified and v_table.added ? name then format('has a column %s, which pgonce adds', name)
                  when not specified then format('has a column %s that is NOT NULL without a default', name)
                  when not present then format('has no column %s', name)
                  when attgenerated <> '' then format('column %s is generated', name)
                  else format('column %s is %s, not %s', name, type, wanted) end as what
      from pairs
      where case when specified then not present or type <> wanted or attgenerated <> ''
                 when v_table.added ? name then not v_table.is_ours
                 else (attnotnull and expression is null and attidentity = '' and attgenerated = '') end
      union all
      select format('has a rule %s', rulename) from pg_rewrite where ev_class = v_table.oid
      union all
      select 'inherits, or is inherited from' where v_table.inherits
      union all  -- PostgreSQL adds no column to such a table
      select format('its rows are the type of %s', pg_describe_object(d.classid, d.objid, d.objsubid))
      from pg_type t join pg_depend d on d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
      join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid and c.relkind in ('r', 'm', 'p') and d.objsubid > 0
      where t.typrelid = v_table.oid and not v_table.is_ours),
    altered as (
      select format('alter column %I %s not null', name, case when wanted_not_null then 'set' else 'drop' end) as action
      from pairs where wanted_not_null <> attnotnull
      union all
      select format('alter column %I ', name) || coalesce('set default ' || wanted_default, 'drop default')
      from pairs where specified and wanted_default is distinct from expression and (name <> 'id' or expression is null)
      union all
      select format('alter column %I drop identity', name) from pairs where specified and attidentity <> ''
      union all  -- joined with a text of pgonce's, a column of another collation is an error
      select format('alter column %I type %s', name, wanted) from pairs where specified and collated
      union all
      select 'not of' where v_table.reloftype <> 0
      union all  -- a table has one primary key
      select format('drop constraint %I', conname) from pg_constraint
      where conrelid = v_table.oid and (contype = 'p' and pg_get_constraintdef(oid) <> 'PRIMARY KEY (id)' or contype in ('u', 'x') and condeferrable)
      union all  -- INSERT ... ON CONFLICT is an error if a key is deferrable
      select 'add ' || regexp_replace(pg_get_constraintdef(oid), ' DEFERRABLE.*', '') from pg_constraint
      where conrelid = v_table.oid and contype in ('u', 'x') and condeferrable
      union all
      select 'add ' || pg_get_constraintdef(k.oid) from pg_constraint k
      where k.conrelid = 'pgonce_shape'::regclass and k.contype in ('p', 'u', 'c') and not exists (
        select from pg_constraint t where t.conrelid = v_table.oid and t.contype = k.contype
          and pg_get_constraintdef(t.oid) = pg_get_constraintdef(k.oid))
      union all
      select 'set logged' where v_table.relpersistence <> 'p')
    select (select string_agg(what, '; ' order by what) from wrong), (select string_agg(distinct action, ', ' order by action) from altered)
    into v_wrong, v_alter;
    if v_wrong is not null then
      raise sqlstate 'PGO01' using message = format('table %s in schema %s is not the one of the specification (%s): rename it, or %s',
        v_table.name, v_schema, v_wrong, v_elsewhere);
    elsif v_alter is not null then
      raise sqlstate 'PGO01' using message = format('table %s in schema %s differs from the specification: to have it adopted, run '
        '"alter table %I.%I %s"; or %s', v_table.name, v_schema, v_schema, v_table.name, v_alter, v_elsewhere);
    end if;

    select string_agg(format('%I.%I', v_schema, s.name), ', ' order by s.name) into v_alter
    from (select key as name, row_number() over () as n from jsonb_each_text(v_table.indexes)) s
    join pg_class c on c.relname = s.name and c.relnamespace = quote_ident(v_schema)::regnamespace
    join pg_index x on x.indexrelid = c.oid
    join pg_index w on w.indexrelid = format('pgonce_shape_%s', s.n)::regclass
    where not v_table.is_ours and (x.indrelid <> v_table.oid or not x.indisvalid or x.indisunique <> w.indisunique
      or substring(pg_get_indexdef(x.indexrelid) from ' USING .*') <> substring(pg_get_indexdef(w.indexrelid) from ' USING .*'));
    if v_alter is not null then
      raise sqlstate 'PGO01' using message = format('an index of table %s in schema %s differs from the specification: to have it made '
        'anew, run "drop index %s"; or %s', v_table.name, v_schema, v_alter, v_elsewhere);
    end if;
    drop table pgonce_shape;
    if not v_table.is_ours and pg_relation_size(v_table.oid) > 8388608 then
      raise warning 'table % in schema % is large, and its writers wait until this transaction ends: "pgonce migrate" adopts it without',
        v_table.name, v_schema;
    end if;
  end loop;
end $$;
