-- Who may do what in the console: sessions, their roles, and attempts to log in.
--
--   live     a browser's session that has not expired
--   expired  its time is over. The row is deleted at a later login
--
-- transitions
-- from    | verb                       | to     | because
-- absent  | pgonce_console_use_session | none   | not logged in, or logged out
-- live    | pgonce_console_use_session | live   | it is read, and nothing changes
-- expired | pgonce_console_use_session | none   | its time is over: log in again
-- absent  | pgonce_console_end_session | false  | it has ended already
-- live    | pgonce_console_end_session | absent | a logout, or the password was changed
-- expired | pgonce_console_end_session | absent | a logout, late

create or replace function pgonce_console_begin_login(
  p_name text, p_address text, out allowed boolean, out tries_left integer, out wait interval)
language plpgsql set search_path from current as $$
declare
  v_since timestamptz := clock_timestamp() - interval '15 minutes';
  v_both bigint;
  v_name bigint;
  v_address bigint;
  v_first timestamptz;
begin
  if coalesce(p_name, '') = '' then raise sqlstate '22023' using message = 'the name must not be empty'; end if;
  -- Concurrent attempts wait for each other: otherwise a hundred of them would all be counted as the first one.
  perform pg_advisory_xact_lock(hashtextextended('pgonce console login ' || current_schema(), 0));
  delete from pgonce_console_logins where attempted_at < clock_timestamp() - interval '1 day';
  select count(*) filter (where l.address = p_address), count(*) into v_both, v_name
  from pgonce_console_logins l where l.name = p_name and l.attempted_at > v_since;
  select count(*) into v_address from pgonce_console_logins l where l.address = p_address and l.attempted_at > v_since;
  allowed := v_both < 5 and v_name < 20 and v_address < 50;
  tries_left := greatest(least(5 - v_both, 20 - v_name, 50 - v_address) - 1, 0);
  if allowed then
    -- The attempt counts as failed until the session is opened.
    insert into pgonce_console_logins (name, address) values (p_name, p_address);
    wait := '0';
  else
    select min(l.attempted_at) into v_first from pgonce_console_logins l
    where l.attempted_at > v_since and (l.name = p_name or l.address = p_address);
    wait := greatest(v_first - v_since, '1 second');
  end if;
end $$;
comment on function pgonce_console_begin_login(text, text) is
  'pgonce: counts an attempt to log in, before the password is looked at. Within 15 minutes an account has 5 attempts from one address '
  'and 20 in all, and an address has 50. allowed = false: refuse it, whatever the password is; wait says how long.';

create or replace function pgonce_console_open_session(
  p_token_hash bytea, p_name text, p_role text, p_credential text, p_address text, p_counted_address text)
returns uuid
language plpgsql set search_path from current as $$
declare
  v_id uuid;
begin
  if octet_length(p_token_hash) is distinct from 32 then
    raise sqlstate '22023' using message = 'a token is stored as its sha256';
  end if;
  delete from pgonce_console_sessions where expires_at < clock_timestamp() - interval '1 day';
  delete from pgonce_console_logins where name = p_name and address = p_counted_address;
  insert into pgonce_console_sessions (token_hash, source, name, role, credential, address, expires_at)
  values (p_token_hash, 'password', p_name, p_role, p_credential, coalesce(p_address, ''), clock_timestamp() + interval '12 hours')
  returning id into v_id;
  perform pgonce_audit_write('login', 'session', v_id::text, p_after => p_role, p_session => v_id);
  return v_id;
end $$;
comment on function pgonce_console_open_session(bytea, text, text, text, text, text) is
  'pgonce: a person has logged in: opens the session of their browser, for 12 hours. p_token_hash: sha256 of the cookie; '
  'p_credential: a digest of the password''s hash. The failed attempts of this account from this address are forgotten; p_counted_address: that under which '
  'pgonce_console_begin_login counted them. The audit records it.';

create or replace function pgonce_console_identify(p_source text, p_name text, p_role text, p_address text) returns uuid
language plpgsql set search_path from current as $$
declare
  v_id uuid;
begin
  if coalesce(p_name, '') = '' then raise sqlstate '22023' using message = 'the name must not be empty'; end if;
  if p_source not in ('host', 'proxy', 'local', 'cli') then
    raise sqlstate '22023' using message = 'the source is host, proxy, local or cli';
  end if;
  insert into pgonce_console_sessions as s (source, name, role, address, expires_at)
  values (p_source, p_name, p_role, coalesce(p_address, ''), clock_timestamp() + interval '12 hours')
  on conflict (source, name, role, address) where token_hash is null do update set expires_at = excluded.expires_at
  returning id into v_id;
  return v_id;
end $$;
comment on function pgonce_console_identify(text, text, text, text) is
  'pgonce: the session of a user that the host application (host), a proxy, this machine (local) or the command line (cli) names, for '
  '12 hours. The caller vouches for name and role.';

create or replace function pgonce_console_use_session(p_token_hash bytea)
returns table (id uuid, name text, role text, credential text)
language sql stable set search_path from current as $$
  select s.id, s.name, s.role, s.credential from pgonce_console_sessions s
  where s.token_hash = p_token_hash and s.expires_at > clock_timestamp()
$$;
comment on function pgonce_console_use_session(bytea) is
  'pgonce: the session of a browser; no row if there is none, or it has expired. The caller compares credential with the user''s.';

create or replace function pgonce_console_end_session(p_token_hash bytea, p_reason text default null) returns boolean
language plpgsql set search_path from current as $$
declare
  s pgonce_console_sessions;
begin
  select * into s from pgonce_console_sessions where token_hash = p_token_hash for update;
  if not found then return false; end if;
  perform pgonce_audit_write('logout', 'session', s.id::text, p_before => s.role, p_reason => p_reason, p_session => s.id);
  delete from pgonce_console_sessions where id = s.id;
  return true;
end $$;
comment on function pgonce_console_end_session(bytea, text) is 'pgonce: logs a browser out. false = it was not logged in.';

create or replace function pgonce_console_operator(p_session uuid) returns text
language plpgsql stable set search_path from current as $$
declare
  s pgonce_console_sessions;
begin
  select * into s from pgonce_console_sessions where id = p_session and expires_at > clock_timestamp();
  if not found then
    raise sqlstate 'PT403' using message = 'this session has ended: log in again';
  elsif s.role <> 'operator' then
    raise sqlstate 'PT403' using message = format('%s is a reader: only an operator may do this', s.name);
  end if;
  return s.name;
end $$;
comment on function pgonce_console_operator(uuid) is
  'pgonce: the name of the operator whose session this is. Each action of the console begins with this call. PT403 = the session is a '
  'reader''s, or has ended.';
