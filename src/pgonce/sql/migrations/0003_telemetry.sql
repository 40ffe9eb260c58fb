-- What telemetry keeps.

-- The span in which an event was recorded, while its receiver is traced.
create table if not exists pgonce_webhook_traces (
  stripe_event_id text        primary key,
  traceparent     text        not null check (length(traceparent) <= 100),
  recorded_at     timestamptz not null default clock_timestamp()
);
create index if not exists pgonce_webhook_traces_recorded on pgonce_webhook_traces (recorded_at);
