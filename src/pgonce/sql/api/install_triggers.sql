-- Creates a trigger, or creates it again where it differs. "create or replace trigger" would block every writer of the table
-- at each migrate. p_definition is written as pg_get_triggerdef prints it, in lower case, so that the two can be compared.

create or replace function pgonce_ensure_trigger(p_table text, p_name text, p_definition text) returns boolean
language plpgsql set search_path from current as $$
declare
  v_is_current boolean;
begin
  select tgenabled <> 'D' and lower(pg_get_triggerdef(oid, true)) = p_definition into v_is_current
  from pg_trigger where tgrelid = quote_ident(p_table)::regclass and tgname = p_name;
  if v_is_current then return false; end if;
  execute format('drop trigger if exists %I on %I', p_name, p_table);
  execute p_definition;
  return v_is_current is null;
end $$;
comment on function pgonce_ensure_trigger(text, text, text) is
  'pgonce: creates a trigger, or creates it again where it differs. true = there was none of that name.';
