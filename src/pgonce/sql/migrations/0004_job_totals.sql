-- The running totals of the runs of many jobs, which pgonce_job_timing subtracts from one another.

-- A midnight (UTC) up to which the runs of the last 62 days are counted.
create table if not exists pgonce_job_days (
  until     timestamptz primary key,
  -- the runs that had begun before, and had not ended when they would have been counted: they count in a later total
  open_runs uuid[]      not null default '{}',
  -- the jobs that may have runs in the 24 hours before that started while another run was at work; null: not looked at
  overlapping text[]
);
-- The runs of a job up to that midnight; a job without a row has none. Only differences of two midnights mean something.
create table if not exists pgonce_job_totals (
  until       timestamptz not null references pgonce_job_days on delete cascade,
  job_name    text        not null,
  succeeded   bigint      not null,
  failed      bigint      not null,
  skipped     bigint      not null,
  rows        bigint      not null,   -- rows_processed of the successful runs
  spent_ms    bigint      not null,   -- the sum of their durations
  measured    bigint      not null,   -- how many of them have a duration; a run that was written by hand may have none
  durations   integer[]   not null,   -- the durations, rounded by pgonce_round_duration
  counts      integer[]   not null,   -- how many runs have each of these durations
  last_started timestamptz,           -- when the last of the runs had started
  last_failed timestamptz,            -- when the last one of those that failed had started
  primary key (until, job_name)
);
