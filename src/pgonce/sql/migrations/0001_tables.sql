-- The three tables of the specification, then what pgonce adds to each.
-- "if not exists" adopts tables that a team has already made from the specification by hand.

create table if not exists webhook_events (
  id              uuid primary key default gen_random_uuid(),
  stripe_event_id text not null unique,
  event_type      text not null,
  status          text not null default 'processing'
                    check (status in ('processing', 'succeeded', 'failed', 'ignored')),
  error_message   text,
  payload         jsonb not null default '{}',
  received_at     timestamptz not null default now(),
  processed_at    timestamptz,
  constraint stripe_event_id_not_empty check (stripe_event_id <> '')
);
create index if not exists idx_webhook_events_received on webhook_events (received_at desc);
create index if not exists idx_webhook_events_status on webhook_events (status)
  where status in ('processing', 'failed');

-- A plain INSERT means that the client handles the event itself: the defaults give it a lease of five minutes and its first
-- attempt. Our receiver inserts rows that nobody holds: queued, without a lease, due at once.
alter table webhook_events
  -- A volatile default would rewrite an adopted table under a lock that blocks all readers and writers (28 s for a million
  -- rows). So the existing rows all get one value here, and the volatile default is set below. A check of the existing rows
  -- would read them all.
  add column if not exists lease            uuid        default md5(now()::text)::uuid,
  add column if not exists lease_expires_at timestamptz default now() + interval '5 minutes',
  add column if not exists attempts         integer     not null default 1,
  add column if not exists queued           boolean     not null default false,
  add column if not exists next_attempt_at  timestamptz,
  add column if not exists ignored_reason   text,
  -- how many times Stripe has sent it; deliveries during its handling are not counted
  add column if not exists deliveries       integer     not null default 1,
  -- events with equal keys are handled one at a time, by received_at (Stripe's "created" has a resolution of a second)
  add column if not exists order_key        text,
  -- who sends it; a trigger reads it from the id: "github:72d3" is github's
  add column if not exists provider         text        not null default 'stripe',
  -- the bytes as received, only where jsonb cannot hold them exactly
  add column if not exists raw              bytea,
  -- A trigger reads these from the payload, so that the rows of every client are searchable. They are not generated columns:
  -- those cost each single UPDATE 30 us of its 150, because PostgreSQL reads their expressions before it finds that none has
  -- to change.
  add column if not exists object_id        text,
  add column if not exists customer_id      text,
  add column if not exists account          text,
  add column if not exists livemode         boolean,
  -- the id of the snapshot event with the same content, in a thin event
  add column if not exists snapshot_event   text,
  -- what failures have in common, written by a trigger: exception and place, such as "KeyError at shop/billing.py:88 in pay"
  add column if not exists failure          text,
  -- 2,000 spaces until the event is claimed: they make PostgreSQL store a small payload outside the row, see below
  add column if not exists filler           text;
alter table webhook_events
  alter column lease set default gen_random_uuid(),
  alter column lease_expires_at set default clock_timestamp() + interval '5 minutes',
  drop constraint if exists pgonce_webhook_events_attempts,
  add constraint pgonce_webhook_events_attempts check (attempts >= 0) not valid;

-- The payload is stored outside the row (TOAST), so that a claim and a mark write a new version of 250 bytes only. PostgreSQL
-- looks for values to store there only if the row is longer than 2,000 bytes. Without the filler a payload of 1 kB would stay
-- in the row and be written three times. Then it stores outside what makes the row longer than toast_tuple_target.
--
-- Half of each page is left free for the later versions of its rows: a claim then changes no index (HOT), and costs 25 us
-- instead of 34. docs/decisions/disk-space.md has the figures.
alter table webhook_events alter column payload set storage external, set (fillfactor = 50, toast_tuple_target = 400);
do $$ begin  -- lz4 costs no time that could be measured; pglz costs 12 to 45 % of the recording of an event of 3.5 kB
  if 'lz4' = any ((select enumvals from pg_settings where name = 'default_toast_compression')::text[]) then
    alter table webhook_events alter column payload set compression lz4, alter column payload set storage extended;
  end if;
end $$;

-- The events that a worker may have to handle, by due time and by object. Finished rows are in neither, so both stay small.
create index if not exists pgonce_webhook_events_due on webhook_events (next_attempt_at) where next_attempt_at is not null;
create index if not exists pgonce_webhook_events_order on webhook_events (order_key, received_at, id)
  where order_key is not null and next_attempt_at is not null;
create index if not exists pgonce_webhook_events_snapshot on webhook_events (snapshot_event) where snapshot_event is not null;
-- Without received_at in it, such an index stores a value once for all its rows: it takes a third of the space.
create index if not exists pgonce_webhook_events_object on webhook_events (object_id) where object_id is not null;
create index if not exists pgonce_webhook_events_customer on webhook_events (customer_id) where customer_id is not null;
-- The events that a worker queues again if it has a handler for their type.
create index if not exists pgonce_webhook_events_unhandled on webhook_events (received_at)
  where status = 'ignored' and queued and ignored_reason like 'no handler%';
-- pattern_ops: also for the beginning of a type, such as "customer."
create index if not exists pgonce_webhook_events_type on webhook_events (event_type text_pattern_ops, received_at desc);
-- For the console's lists. Few events are in these two; account is null except with Stripe Connect.
create index if not exists pgonce_webhook_events_dead on webhook_events (event_type, failure, received_at)
  where status = 'failed' and next_attempt_at is null;
create index if not exists pgonce_webhook_events_ignored on webhook_events (received_at desc, id desc) where status = 'ignored';
create index if not exists pgonce_webhook_events_account on webhook_events (account, received_at desc)
  where account is not null;

-- What happened to an event besides its success: a row for each failed attempt, lost attempt and replay.
create table if not exists pgonce_webhook_attempts (
  id       bigint generated always as identity primary key,
  event_id uuid        not null,
  what     text        not null check (what in ('failed', 'lost', 'replayed', 'erased')),
  attempt  integer     not null,
  worker   text,                                  -- host:pid, or the person who replayed it
  began_at timestamptz,
  ended_at timestamptz not null default clock_timestamp(),
  error    text,                                  -- the traceback, or why it was replayed
  replay_id bigint                                -- the replay that it was part of
);
create index if not exists pgonce_webhook_attempts_event on pgonce_webhook_attempts (event_id, id);

-- The renewed leases of events whose handlers have transactions of their own. They are not in the event's row: under
-- REPEATABLE READ the handler's own update of that row would fail after each renewal.
create table if not exists pgonce_webhook_leases (
  event_id   uuid        not null,
  lease      uuid        not null,
  expires_at timestamptz not null,
  primary key (event_id, lease)
);
create index if not exists pgonce_webhook_leases_expires on pgonce_webhook_leases (expires_at);

-- How many deliveries were refused, by minute and reason: at most seven rows a minute. The content of a delivery is not stored.
create table if not exists pgonce_refused_deliveries (
  minute     timestamptz not null,
  reason     text        not null,
  deliveries bigint      not null check (deliveries > 0),
  primary key (minute, reason)
);

-- The time up to which a comparison with an outside source is complete, and the server's timeline at that moment.
create table if not exists pgonce_watermarks (
  name       text primary key,
  position   timestamptz not null,
  timeline   text        not null,
  updated_at timestamptz not null default clock_timestamp()
);

-- When upkeep that every worker offers to do was last done: one process at a time does it for all.
create table if not exists pgonce_upkeep (
  what    text        primary key,
  done_at timestamptz not null
);

create table if not exists cron_job_runs (
  id              uuid primary key default gen_random_uuid(),
  job_name        text not null,
  status          text not null default 'running'
                    check (status in ('running', 'succeeded', 'failed', 'skipped')),
  scope           jsonb default '{}',
  rows_processed  integer default 0,
  rows_skipped    integer default 0,
  error_message   text,
  started_at      timestamptz not null default now(),
  completed_at    timestamptz,
  duration_ms     integer
);
create index if not exists idx_cron_runs_job_name on cron_job_runs (job_name, started_at desc);
create index if not exists idx_cron_runs_status on cron_job_runs (status) where status = 'running';
create index if not exists idx_cron_runs_started on cron_job_runs (started_at desc);

-- run_window is the specification's "last N minutes". It is stored with the run: the N of the process that runs it counts.
-- ("window" itself is a reserved word of PostgreSQL.)
alter table cron_job_runs
  add column if not exists key           text        not null default '',
  add column if not exists run_window    interval    not null default '15 minutes',
  add column if not exists heartbeat_at  timestamptz not null default now(),
  add column if not exists scheduled_for timestamptz,
  add column if not exists blocked_by    uuid;
alter table cron_job_runs alter column heartbeat_at set default clock_timestamp();

-- The run's progress, when it was asked to stop, and its retries. Like the window, the number of retries is set by the
-- process that starts the run, and is stored in the row: so the process that closes the run of a dead process can see whether
-- it must be retried.
alter table cron_job_runs
  add column if not exists progress_done     bigint,
  add column if not exists progress_total    bigint,
  add column if not exists stop_requested_at timestamptz,
  add column if not exists attempt           integer not null default 1,
  add column if not exists retries           integer,
  add column if not exists backoff           interval,
  add column if not exists retry_of          uuid,
  -- the tick of the first attempt, also in its retries: scheduled_for is unique, so a retry has none
  add column if not exists for_tick          timestamptz,
  -- host:pid of the process that runs it
  add column if not exists process           text,
  -- when the figures last changed: a run that hangs still sends heartbeats
  add column if not exists progress_at       timestamptz,
  -- how many transactions of the run the database has committed; its process knows how many were confirmed to it
  add column if not exists transactions      integer not null default 0,
  -- when its process noticed that the run had been closed meanwhile: until then it may have worked beside a successor
  add column if not exists worked_until      timestamptz;

-- In an adopted table every crash may have left a running row. All but the newest of each job are closed, for the index below.
update cron_job_runs r
set status = 'failed', completed_at = clock_timestamp(), error_message = 'abandoned: running before pgonce, and started anew since'
where status = 'running' and exists (
  select from cron_job_runs n where n.job_name = r.job_name and n.key = r.key and n.status = 'running'
    and (n.started_at, n.id) > (r.started_at, r.id));
set constraints all immediate;  -- no index can be created while a deferred trigger of the user's waits for the commit
-- No client can write two running rows of one job and key.
create unique index if not exists pgonce_cron_job_runs_one_running on cron_job_runs (job_name, key)
  where status = 'running';
-- A tick fires once, whatever its outcome: the index covers all statuses.
create unique index if not exists pgonce_cron_job_runs_one_tick on cron_job_runs (job_name, key, scheduled_for)
  where scheduled_for is not null;
-- The failed runs that will be retried. This is a table of its own, nearly always empty: each partial index on cron_job_runs
-- adds some 10 us to every start and every end, used or not.
create table if not exists pgonce_job_retries (
  run_id   uuid primary key,
  job_name text not null,
  due_at   timestamptz not null,
  counted  boolean not null default true,  -- false: its process was stopped, which is not an attempt
  retries  integer                         -- if it is not counted: how many retries it had
);

-- The heartbeats of runs whose transactions keep one snapshot (REPEATABLE READ, SERIALIZABLE). Such a transaction cannot
-- update a row that somebody else has updated since it began. It ends with an update of its run's row, so nobody else may
-- update that row.
create table if not exists pgonce_job_heartbeats (
  run_id       uuid primary key,
  heartbeat_at timestamptz not null default clock_timestamp()
);

-- When each job runs: the schedules that the newest start of an app registered, and those that an operator wrote. Every
-- worker that has the job follows these rows. They also let SQL report "did not run" when all workers are dead.
create table if not exists pgonce_job_schedules (
  job_name        text        not null,
  key             text        not null default '',
  cron            text        not null,             -- five fields, or @every 90 minutes
  timezone        text        not null,
  next_tick       timestamptz not null,             -- the earliest tick that no scheduler has dealt with yet
  upcoming        timestamptz[] not null default '{}', -- the ticks after it, in case every scheduler dies
  grace           interval    not null default '5 minutes',
  source          text        not null default 'code' check (source in ('code', 'operator')),
  app             text        not null default '',  -- the app that registered it, as --app names it
  registered_with text,                             -- which jobs were registered together, as a digest of their names
  scope           jsonb       not null default '{}',
  catch_up        text        not null default 'none',
  slots           integer,                          -- the most slots that the job has had; null: it never had slots
  updated_at      timestamptz not null default clock_timestamp(),
  primary key (job_name, key)
);

-- How often a job must run and how long a run may take, no matter what starts it: cron, Kubernetes, Celery, pg_cron.
create table if not exists pgonce_job_expectations (
  job_name text        not null, key text not null default '',
  app      text, registered_with text,  -- as in pgonce_job_schedules; null: an operator or a guard wrote it
  every    interval    check (every > '0'), within interval check (within > '0'),
  grace    interval    not null default '5 minutes' check (grace >= '0'),
  since    timestamptz not null default clock_timestamp(),
  primary key (job_name, key), check (every is not null or within is not null)
);

-- Jobs that an operator has paused: no run of them starts before paused_until (null: before they are resumed).
create table if not exists pgonce_job_pauses (
  job_name     text        primary key,
  reason       text        not null,
  paused_at    timestamptz not null default clock_timestamp(),
  paused_until timestamptz
);

-- Runs that somebody has requested. A worker that has the job starts the run and writes the answer in one transaction.
create table if not exists pgonce_job_requests (
  id           uuid        primary key default gen_random_uuid(),
  job_name     text        not null,
  key          text,                                 -- null: the job's own
  scope        jsonb       not null default '{}',
  requested_at timestamptz not null default clock_timestamp(),
  answered_at  timestamptz,
  run_id       uuid,                                 -- null: it was not started
  answer       text
);
create index if not exists pgonce_job_requests_open on pgonce_job_requests (requested_at) where answered_at is null;

-- When processes of each release started to run jobs: durations are compared by it.
create table if not exists pgonce_job_releases (
  app        text        not null,
  started_at timestamptz not null default clock_timestamp(),
  release    text        not null,               -- as in pgonce_list_processes
  jobs       text[]      not null,
  primary key (app, started_at)
);

create table if not exists seed_checkpoints (
  id              uuid primary key default gen_random_uuid(),
  seed_name       text not null unique,
  last_checkpoint jsonb not null default '{}',
  rows_inserted   integer not null default 0,
  rows_skipped    integer not null default 0,
  status          text not null default 'in_progress'
                    check (status in ('in_progress', 'complete', 'failed')),
  error_message   text,
  started_at      timestamptz not null default now(),
  last_updated_at timestamptz not null default now(),
  completed_at    timestamptz
);
create index if not exists idx_seed_checkpoints_name on seed_checkpoints (seed_name);

-- batch counts the committed batches. Each batch is a compare-and-set on it, so a delayed COMMIT
-- and its repetition cannot both take effect.
alter table seed_checkpoints
  add column if not exists batch bigint not null default 0;

-- rows_seen = inserted + updated + skipped + rejected since the import last began at the start, including all resumes. The
-- total_ columns have the sums of all time. rows_total is the number of rows that the source reports. fingerprint identifies
-- the source's content up to last_checkpoint. target has the table, and keys of the last batch, by which a resume recognizes
-- the table. verified is the last comparison of table and source. paused_at: the runner stops after its batch. progress is
-- the share of the source, 0 to 1, that lies before last_checkpoint; null if the source does not know it.
alter table seed_checkpoints
  add column if not exists rows_updated  bigint not null default 0,
  add column if not exists rows_rejected bigint not null default 0,
  add column if not exists rows_seen     bigint not null default 0,
  add column if not exists fingerprint   jsonb,
  add column if not exists verified      jsonb,
  add column if not exists paused_at     timestamptz,
  add column if not exists target        jsonb,
  add column if not exists rows_total     bigint,
  add column if not exists total_inserted bigint not null default 0,
  add column if not exists total_updated  bigint not null default 0,
  add column if not exists total_skipped  bigint not null default 0,
  add column if not exists total_rejected bigint not null default 0,
  add column if not exists progress       double precision;

-- A row that the table refused. row has its columns as text, if jsonb can hold them; else line has it in COPY's format. error
-- is the server's message, which may quote values; reason is the same without values, and column_name the column it names.
create table if not exists pgonce_seed_rejects (
  id          bigint generated always as identity primary key,
  seed_name   text not null,
  partition   text not null default '',
  row_number  bigint not null,
  cursor      jsonb,
  row         jsonb,
  line        bytea,
  sqlstate    text,
  error       text not null,
  reason      text,
  column_name text,
  rejected_at timestamptz not null default clock_timestamp()
);
create index if not exists pgonce_seed_rejects_seed on pgonce_seed_rejects (seed_name, id);

-- A part of a seed with a checkpoint of its own, in the same columns as seed_checkpoints, which has the sums of all parts.
create table if not exists pgonce_seed_partitions (
  like seed_checkpoints including defaults,
  partition text not null,
  primary key (seed_name, partition)
);

-- When each of the last 60 batches was committed. It is a ring buffer: slot = batch % 60.
create table if not exists pgonce_seed_batches (
  seed_name    text not null,
  partition    text not null default '',
  slot         smallint not null,
  batch        bigint not null,
  rows         bigint not null,
  committed_at timestamptz not null default clock_timestamp(),
  primary key (seed_name, partition, slot)
);

-- The alerts to send, one row for each channel. A channel is the hash of its URL, because the URL contains a secret.
create table if not exists pgonce_alerts (
  id              uuid primary key default gen_random_uuid(),
  channel         text not null,
  kind            text not null,
  subject         text not null,
  dedupe_key      text not null,
  message         text not null,
  detail          jsonb not null default '{}',
  created_at      timestamptz not null default clock_timestamp(),
  delivered_at    timestamptz,
  attempts        integer not null default 0,
  next_attempt_at timestamptz not null default clock_timestamp(),
  last_error      text,
  unique (channel, dedupe_key)
);
create index if not exists pgonce_alerts_due on pgonce_alerts (channel, next_attempt_at) where delivered_at is null;
create index if not exists pgonce_alerts_created on pgonce_alerts (created_at);

-- When alerts were last looked for, for each channel. watched: the runs that were running at that time. Their ends are found
-- by id, however long they take.
create table if not exists pgonce_alert_channels (
  channel   text primary key,
  looked_at timestamptz,
  watched   uuid[] not null default '{}'
);

-- The services that run: one row for each service of a process.
create table if not exists pgonce_processes (
  id uuid primary key, process uuid not null default gen_random_uuid(), -- two containers may have the same host name and pid
  does         text        not null,              -- events, receives, jobs or alerts
  host         text        not null,
  pid          integer     not null,
  version      text        not null,              -- pgonce's
  app          text        not null default '',   -- as --app names it
  release      text        not null default '',   -- PGONCE_RELEASE of the process
  digest       text        not null default '',   -- of its handlers, or of its jobs and their schedules
  handlers     text[]      not null default '{}', -- patterns of event types
  jobs         text[]      not null default '{}',
  capacity     integer,                           -- how much it can do at the same time
  busy         integer     not null default 0,
  busy_with    text[]      not null default '{}',
  started_at   timestamptz not null default clock_timestamp(),
  last_seen_at timestamptz not null default clock_timestamp()
);
