-- Which span recorded an event, so that the span of each attempt can link to it. Rows are written only while an application
-- traces its receiver, and are kept for a week. It is a table of its own, because most installations trace nothing.

create or replace function pgonce_store_webhook_trace(p_stripe_event_id text, p_traceparent text) returns void
language plpgsql set search_path from current as $$
begin
  delete from pgonce_webhook_traces where stripe_event_id in (
    select t.stripe_event_id from pgonce_webhook_traces t where t.recorded_at < clock_timestamp() - interval '7 days'
    order by t.recorded_at limit 10 for update skip locked);
  insert into pgonce_webhook_traces (stripe_event_id, traceparent) values (p_stripe_event_id, p_traceparent)
  on conflict (stripe_event_id) do nothing;  -- the first delivery is the one that is handled
end $$;
comment on function pgonce_store_webhook_trace(text, text) is
  'pgonce: keeps the span (W3C''s traceparent) in which an event was recorded. Rows older than a week are deleted.';

create or replace function pgonce_get_webhook_trace(p_stripe_event_id text) returns text
language sql stable set search_path from current as $$
  select t.traceparent from pgonce_webhook_traces t where t.stripe_event_id = p_stripe_event_id
$$;
comment on function pgonce_get_webhook_trace(text) is
  'pgonce: the span in which an event was recorded; null if that was not traced.';
