-- The tables of the console: sessions, the audit, checks, mutes.

-- Who uses the console. A session belongs to a browser that logged in (token_hash), or to a user that is identified anew at
-- each request: by the host application, by a proxy, on this machine, or on the command line.
create table if not exists pgonce_console_sessions (
  id         uuid        primary key default gen_random_uuid(),
  token_hash bytea       unique,                  -- sha256 of the cookie
  source     text        not null check (source in ('password', 'host', 'proxy', 'local', 'cli')),
  name       text        not null,
  role       text        not null check (role in ('reader', 'operator')),
  credential text        not null default '',     -- a digest of the password's hash: another password ends the session
  address    text        not null default '',     -- of the client; on the command line, the machine
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null
);
create unique index if not exists pgonce_console_sessions_identity on pgonce_console_sessions (source, name, role, address)
  where token_hash is null;

-- Attempts to log in that failed, or have not ended. Rows are deleted after a day.
create table if not exists pgonce_console_logins (
  id           bigint      generated always as identity primary key,
  name         text        not null,
  address      text        not null,
  attempted_at timestamptz not null default clock_timestamp()
);
create index if not exists pgonce_console_logins_name on pgonce_console_logins (name, attempted_at);
create index if not exists pgonce_console_logins_address on pgonce_console_logins (address, attempted_at);

-- What people have done, in the console and on the command line. Each row is written in the transaction of what it records.
create table if not exists pgonce_audit (
  id      bigint      generated always as identity primary key,
  at      timestamptz not null default clock_timestamp(),
  actor   text        not null,
  source  text        not null,                   -- console, cli or sql
  address text        not null default '',
  session uuid,
  action  text        not null,                   -- a verb: replay, stop, pause, login
  noun    text        not null,                   -- what it was done to: webhook, run, job, import, alert, session, schema
  object  text        not null default '',        -- its id or name
  before  text,
  after   text,
  reason  text,
  refused boolean     not null default false,
  detail  jsonb       not null default '{}'
);
create index if not exists pgonce_audit_at on pgonce_audit (at, id);
create index if not exists pgonce_audit_object on pgonce_audit (object, at, id);
create index if not exists pgonce_audit_actor on pgonce_audit (actor, at, id);
create index if not exists pgonce_audit_action on pgonce_audit (action, at, id);

-- When something was last looked at, by which process, and what it found.
create table if not exists pgonce_checks (
  name       text        primary key,
  checked_at timestamptz not null default clock_timestamp(),
  checked_by text        not null default '',
  detail     jsonb       not null default '{}'
);

-- Alerts that an operator has muted: they are stored, and delivered only if their cause is still there at the end.
create table if not exists pgonce_alert_mutes (
  kind        text        not null,
  subject     text        not null,
  muted_at    timestamptz not null default clock_timestamp(),
  muted_until timestamptz not null,
  muted_by    text        not null,
  reason      text        not null default '',
  primary key (kind, subject)
);

-- Replays: which events somebody wanted to replay, as they were seen then, and what has become of each. A worker queues them
-- in steps. seen_lease identifies the attempt that was seen.
create table if not exists pgonce_replays (
  id         bigint generated always as identity primary key,
  status     text        not null default 'planned' check (status in ('planned', 'running', 'stopping', 'done', 'stopped')),
  who        text        not null,
  why        text,
  filter     jsonb       not null,
  plan       jsonb       not null default '{}',  -- what the dry run found
  at_once    integer,                            -- at most this many queued and not handled yet; null: any number
  settled_to integer     not null default 0,     -- the position up to which outcomes have been looked for in this round
  planned_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  ended_at   timestamptz,
  stopped_by text
);
create index if not exists pgonce_replays_open on pgonce_replays (id) where status in ('running', 'stopping');
create table if not exists pgonce_replay_items (
  replay_id       bigint      not null references pgonce_replays on delete cascade,
  position        integer     not null,
  event_id        uuid        not null,
  stripe_event_id text        not null,
  seen_status     text        not null,
  seen_lease      uuid,
  state           text        not null default 'planned'
                    check (state in ('planned', 'queued', 'changed', 'succeeded', 'failed', 'ignored')),
  queued_at       timestamptz,
  settled_at      timestamptz,
  primary key (replay_id, position)
);
create index if not exists pgonce_replay_items_open on pgonce_replay_items (replay_id, state, position)
  where state in ('planned', 'queued');
create index if not exists pgonce_replay_items_event on pgonce_replay_items (event_id);
