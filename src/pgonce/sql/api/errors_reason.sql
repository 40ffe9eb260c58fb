-- Reduces an error message to one line, and finds where in the user's own code the error was raised. An error message is a
-- Python traceback, the text of a database error, the last lines that a command wrote to stderr, or any text that a client
-- has written.
--
-- A letter after "(?:" is written as a class: SQLAlchemy, and with it the op.execute of Alembic, takes a colon and a word for a
-- parameter.

-- Of an error of megabytes the patterns below took more than a second. Its start has the frames and the name of the exception, its
-- end the last error of a chain and the last line of a command.
-- Without a search_path of its own, so that the planner writes it into the statement: its body is parsed at its creation.
-- chr(13): a dump has this body as a tree that is printed, where E'\r' is a line break that a copy of the dump may change.
create or replace function pgonce_error_ends(p_error text) returns text
language sql immutable parallel safe
return replace(case when octet_length(p_error) > 100000 then left(p_error, 20000) || right(p_error, 20000) else p_error end, chr(13), '');
comment on function pgonce_error_ends(text) is
  'pgonce: an error without carriage returns, and without its middle if it is longer than 100,000 bytes.';

create or replace function pgonce_error_line(p_error text) returns text
language plpgsql immutable parallel safe set search_path from current as $$
declare
  v_text text := pgonce_error_ends(p_error);
  v_end text;
  v_line text;
begin
  -- Only the last error of a chain reached pgonce; the earlier ones are its causes. The search takes as long as all others together.
  if strpos(v_text, ' exception') > 0 then
    v_text := regexp_replace(v_text,
      '^.*(?:[T]he above exception was the direct cause of the following exception|During handling of the above exception, another exception occurred):\n+', '');
  end if;
  v_end := substring(v_text from '(?:^|\n)(exit code \d+|ended by signal \d+)\s*$');
  if v_end is not null then
    -- pgonce exec wrote this. The reason is the last line that the command wrote, not a traceback in its log.
    v_text := regexp_replace(v_text, '(?:^|\n)(?:[e]xit code \d+|ended by signal \d+)\s*$', '');
  elsif v_text ~ 'Exception Group Traceback' then
    v_line := substring(v_text from '(?n)^[ ]*\| ([A-Za-z_][\w.]*: .*)$');
  elsif v_text ~ '(?n)^ +File ".*", line \d' then
    -- After the last frame come lines of code, which are indented, and then the error. Only its first line is used. The lines
    -- after it are PostgreSQL's DETAIL, HINT and CONTEXT, a statement with its parameters, or notes.
    v_line := substring(regexp_replace(v_text, '^.*\n? +File "[^\n]*", line \d[^\n]*\n', '') from '(?n)^[^\s].*$');
  end if;
  if v_line is null then
    v_text := regexp_replace(v_text, '\n\[SQL: .*$', '');
    -- The last line that is not indented and that PostgreSQL has not added to an error, such as a row, a position or a hint.
    -- offset 0: the lines are looked at from the last one on, and not all of them before they are sorted.
    select l.line into v_line from (
      select a.line from string_to_table(v_text, E'\n') with ordinality a (line, number) order by a.number desc offset 0) l
    where l.line ~ '^\S' and l.line !~ '^(?:[D]ETAIL|HINT|CONTEXT|QUERY|STATEMENT|LOCATION|LINE \d+) *:' limit 1;
    v_line := concat_ws(' ', v_line, case when v_line is null then v_end else '(' || v_end || ')' end);
  end if;
  if v_line ~ '(?:[i]nvalid (?:[i]nput|value|byte|regular)|out of range|malformed)' then
    -- PostgreSQL's errors of class 22 quote the value, for example: invalid input syntax for type integer: "12,90"
    v_line := regexp_replace(v_line, ': "[^\n]*"$', '');
    v_line := regexp_replace(v_line, '\mvalue "[^\n]*"', 'value …');
  end if;
  return left(nullif(v_line, ''), 500);
end $$;
comment on function pgonce_error_line(text) is
  'pgonce: the error''s own line, for lists and alerts: the exception of a traceback without what PostgreSQL adds (the row, the position, '
  'the hint), or the last line of a command''s output. Values that a database error quotes are left out. null for an empty message.';

create or replace function pgonce_error_place(p_error text) returns text
language sql immutable parallel safe set search_path from current as $$
  -- The innermost frame that is in neither a library nor pgonce. The last two parts of its path identify the file.
  select format('%s:%s in %s', substring(f.part[1] from '(?:[^/\\]+[/\\])?[^/\\]+$'), f.part[2], f.part[3])
  from regexp_matches(pgonce_error_ends(p_error), '(?n)File "([^"]+)", line (\d+), in (.+)$', 'g') with ordinality f (part, number)
  where f.part[1] !~ '(?:[s]ite-packages|dist-packages|[/\\]lib(?:[6]4)?[/\\]python\d|[/\\]pgonce[/\\](?:[c]ore|webhooks|jobs|seeds|cli|alerts)[/\\]|^<|\.pyx$)'
  order by f.number desc limit 1
$$;
comment on function pgonce_error_place(text) is
  'pgonce: where in the user''s code a traceback''s error was raised, as "shop/billing.py:88 in sync_invoice"; null if no '
  'frame is in the user''s code.';
