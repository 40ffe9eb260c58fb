-- The three tables as the specification has them, and nothing else: test data for "exactly as specified".

CREATE TABLE webhook_events (
  id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  stripe_event_id text NOT NULL UNIQUE,
  event_type      text NOT NULL,
  status          text NOT NULL DEFAULT 'processing'
                    CHECK (status IN ('processing', 'succeeded', 'failed', 'ignored')),
  error_message   text,
  payload         jsonb NOT NULL DEFAULT '{}',
  received_at     timestamptz NOT NULL DEFAULT now(),
  processed_at    timestamptz,
  CONSTRAINT stripe_event_id_not_empty CHECK (stripe_event_id <> '')
);

CREATE INDEX idx_webhook_events_received ON webhook_events(received_at DESC);
CREATE INDEX idx_webhook_events_status ON webhook_events(status) WHERE status IN ('processing', 'failed');

CREATE TABLE cron_job_runs (
  id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  job_name        text NOT NULL,
  status          text NOT NULL DEFAULT 'running'
                    CHECK (status IN ('running', 'succeeded', 'failed', 'skipped')),
  scope           jsonb DEFAULT '{}',
  rows_processed  integer DEFAULT 0,
  rows_skipped    integer DEFAULT 0,
  error_message   text,
  started_at      timestamptz NOT NULL DEFAULT now(),
  completed_at    timestamptz,
  duration_ms     integer
);

CREATE INDEX idx_cron_runs_job_name ON cron_job_runs(job_name, started_at DESC);
CREATE INDEX idx_cron_runs_status ON cron_job_runs(status) WHERE status = 'running';
CREATE INDEX idx_cron_runs_started ON cron_job_runs(started_at DESC);

CREATE TABLE seed_checkpoints (
  id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  seed_name       text NOT NULL UNIQUE,
  last_checkpoint jsonb NOT NULL DEFAULT '{}',
  rows_inserted   integer NOT NULL DEFAULT 0,
  rows_skipped    integer NOT NULL DEFAULT 0,
  status          text NOT NULL DEFAULT 'in_progress'
                    CHECK (status IN ('in_progress', 'complete', 'failed')),
  error_message   text,
  started_at      timestamptz NOT NULL DEFAULT now(),
  last_updated_at timestamptz NOT NULL DEFAULT now(),
  completed_at    timestamptz
);

CREATE INDEX idx_seed_checkpoints_name ON seed_checkpoints(seed_name);
