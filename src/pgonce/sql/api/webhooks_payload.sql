-- How a webhook body is stored in the table.
--
-- jsonb refuses \u0000, lone surrogates, numbers such as 1e400000, and nesting deeper than the stack. If the INSERT fails,
-- Stripe retries for three days, and then the event is lost. So a body that jsonb cannot hold is stored as bytes in raw, with
-- a readable version as the payload.
create or replace function pgonce_readable_webhook_payload(p_stripe_event_id text, p_event_type text, p_body text) returns jsonb
language plpgsql immutable set search_path from current as $$
declare
  -- E'' strings mean the same under any standard_conforming_strings.
  -- c_escape matches before a backslash that begins an escape: it is not itself escaped, after any number of escaped pairs.
  c_escape constant text := E'(?<!\\\\)((?:\\\\\\\\)*)';
  c_high   constant text := E'\\\\u[dD][89abAB][0-9a-fA-F]{2}';
  c_low    constant text := E'\\\\u[dD][c-fC-F][0-9a-fA-F]{2}';
  v_body text := p_body;
  v_event json;
  v_id text := p_stripe_event_id;
  v_type text := p_event_type;
begin
  begin
    perform p_body::json;  -- checks the syntax only: a body that fails here is not JSON
  exception
    when invalid_text_representation then
      raise sqlstate '22023' using message = 'the body is not JSON', hint = 'pass the request body exactly as it was received';
    when statement_too_complex then null;
  end;
  v_body := regexp_replace(v_body, c_escape || E'\\\\u0000', E'\\1\\\\ufffd', 'g');
  v_body := regexp_replace(v_body, c_escape || c_high || '(?!' || c_low || ')', E'\\1\\\\ufffd', 'g');
  v_body := regexp_replace(v_body, c_escape || '(?<!' || c_high || ')' || c_low, E'\\1\\\\ufffd', 'g');
  return v_body::jsonb;
exception when numeric_value_out_of_range or statement_too_complex or program_limit_exceeded
            or untranslatable_character or invalid_text_representation then
  begin
    v_event := v_body::json;  -- json allows numbers of any size; a body that is nested too deeply fails here, too
    v_id := coalesce(p_stripe_event_id, v_event ->> 'id');
    v_type := coalesce(p_event_type, v_event ->> 'type');
  exception when others then null;
  end;
  return jsonb_build_object('id', v_id, 'type', v_type, 'object', 'event',
                            'unreadable', 'jsonb cannot hold this body: it stands in the column raw');
end $$;
comment on function pgonce_readable_webhook_payload(text, text, text) is
  'pgonce: a jsonb version of a body that the cast to jsonb refuses. Characters that jsonb cannot hold become U+FFFD. If that '
  'is not enough, only id and type are kept. Raises 22023 if the body is not JSON.';

create or replace function pgonce_check_webhook_arguments(p_stripe_event_id text, p_event_type text, p_payload jsonb) returns void
language plpgsql immutable set search_path from current as $$
begin
  if coalesce(p_stripe_event_id, '') = '' or coalesce(p_event_type, '') = '' then
    raise sqlstate '22023' using message = 'the event id and the event type must not be empty';
  elsif length(p_stripe_event_id) > 255 or length(p_event_type) > 255 then  -- an index entry over 2,704 bytes fails with an unclear error
    raise sqlstate '22023' using message = 'the event id and the event type must not be longer than 255 characters';
  elsif jsonb_typeof(p_payload) is distinct from 'object' then
    raise sqlstate '22023' using message = 'the payload must be a JSON object: the whole Stripe event';
  end if;
end $$;
comment on function pgonce_check_webhook_arguments(text, text, jsonb) is
  'pgonce: raises 22023 for an event id or type that is empty or longer than 255 characters, or a payload that is not an object.';

create or replace function pgonce_storable_webhook(
  p_stripe_event_id text, p_event_type text, p_body text, out payload jsonb, out raw bytea)
language plpgsql set search_path from current as $$
begin
  begin
    payload := p_body::jsonb;
  exception when others then
    payload := pgonce_readable_webhook_payload(p_stripe_event_id, p_event_type, p_body);
    raw := convert_to(p_body, 'UTF8');
  end;
  perform pgonce_check_webhook_arguments(p_stripe_event_id, p_event_type, payload);
end $$;
comment on function pgonce_storable_webhook(text, text, text) is
  'pgonce: a body as jsonb. If jsonb cannot hold it exactly, the bytes are returned in raw, too. Raises 22023 if it is not an '
  'event.';

-- left(), because a btree entry may have at most 2,704 bytes.
create or replace function pgonce_webhook_events_before_write() returns trigger
language plpgsql set search_path from current as $$
declare
  v_object jsonb := new.payload #> '{data,object}';
begin
  new.object_id := left(coalesce(v_object ->> 'id', new.payload #>> '{related_object,id}'), 255);
  new.customer_id := left(coalesce(case
    when v_object ->> 'object' = 'customer' then v_object ->> 'id'
    when jsonb_typeof(v_object -> 'customer') = 'object' then v_object #>> '{customer,id}'  -- expanded
    else v_object ->> 'customer' end,
    v_object ->> 'customer_account',  -- a customer that is an account
    new.payload #>> '{data,previous_attributes,customer}',  -- of a payment method that was detached
    case new.payload #>> '{related_object,type}' when 'customer' then new.payload #>> '{related_object,id}' end), 255);  -- thin
  new.account := left(coalesce(new.payload ->> 'account', new.payload ->> 'context'), 255);  -- context: of a thin event
  new.livemode := case jsonb_typeof(new.payload -> 'livemode') when 'boolean' then (new.payload -> 'livemode')::boolean end;
  new.snapshot_event := left(new.payload ->> 'snapshot_event', 255);
  new.provider := coalesce(substring(new.stripe_event_id from '^([a-z][a-z0-9_-]{0,30}):'), 'stripe');
  if tg_op = 'INSERT' and pg_column_size(new.payload) between 150 and 2000 then
    new.filler := repeat(' ', 2000 - pg_column_size(new.payload));  -- see 0001_tables.sql
  end if;
  return new;
end $$;
comment on function pgonce_webhook_events_before_write() is
  'pgonce: copies the searchable fields of a payload into columns of its row.';

-- Groups failures, so that ten thousand events that failed for one cause are one line. The group is the exception without its
-- message, and the place in the user's code. If there is no place, it is the error's line without ids and numbers.
create or replace function pgonce_failure(p_error text) returns text
language sql immutable parallel safe set search_path from current as $$
  select left(case when e.place is null
              then regexp_replace(regexp_replace(e.line, '\m[a-z]+_[A-Za-z0-9]{6,}\M', '…', 'g'), '\d+', '…', 'g')
              else coalesce(substring(e.line from '^[A-Za-z_][A-Za-z0-9_.]*(?=:|$)'), e.line) || ' at ' || e.place end, 500)
  from (select pgonce_error_line(p_error) as line, pgonce_error_place(p_error) as place) e
$$;
comment on function pgonce_failure(text) is
  'pgonce: the text that failures with the same cause share, such as "KeyError at shop/billing.py:88 in pay".';

create or replace function pgonce_webhook_events_before_failure() returns trigger
language plpgsql set search_path from current as $$
begin
  new.failure := pgonce_failure(new.error_message);
  return new;
end $$;
comment on function pgonce_webhook_events_before_failure() is 'pgonce: sets the column failure of an event that fails.';
