-- Delivering alerts: each row of pgonce_alerts waits until its channel has accepted it.
--
-- The attempt number is the token of a delivery: a claim adds one, and a late report of an older attempt changes nothing.
--   due        not delivered, and its time has come: it is new, its backoff is over, or the worker that claimed it has died
--   claimed    a worker is delivering it; the claim holds for a minute
--   waiting    the delivery failed; the backoff is not over
--   set_back   its time is further ahead than any backoff: the clock was set back since
--   overtaken  claimed again by another worker than the caller
--
-- transitions
-- from      | verb                   | to        | because
-- absent    | pgonce_claim_alerts    | none      | there is nothing to deliver
-- due       | pgonce_claim_alerts    | claimed   | one of any number of workers gets it
-- claimed   | pgonce_claim_alerts    | none      | another worker is delivering it
-- waiting   | pgonce_claim_alerts    | none      | its backoff is not over
-- set_back  | pgonce_claim_alerts    | claimed   | it would wait until the clock has caught up
-- delivered | pgonce_claim_alerts    | none      | it was delivered
-- absent    | pgonce_alert_delivered | PT404     | there is no such alert
-- due       | pgonce_alert_delivered | delivered | the report is late, but the channel has accepted it
-- claimed   | pgonce_alert_delivered | delivered | the usual end
-- waiting   | pgonce_alert_delivered | delivered | the report is late, but the channel has accepted it
-- set_back  | pgonce_alert_delivered | delivered | the report is late, but the channel has accepted it
-- delivered | pgonce_alert_delivered | delivered | true: repeated after a lost answer
-- overtaken | pgonce_alert_delivered | delivered | the channel has accepted it, even if another worker is delivering it
-- absent    | pgonce_alert_failed    | PT404     | there is no such alert
-- due       | pgonce_alert_failed    | waiting   | the report is late, but no other worker has claimed it since
-- claimed   | pgonce_alert_failed    | waiting   | the backoff begins
-- waiting   | pgonce_alert_failed    | waiting   | repeated after a lost answer
-- set_back  | pgonce_alert_failed    | waiting   | the backoff begins
-- delivered | pgonce_alert_failed    | false     | another worker has delivered it
-- overtaken | pgonce_alert_failed    | false     | another worker is delivering it

create or replace function pgonce_alert_backoff(p_attempts integer) returns interval
language sql immutable parallel safe set search_path from current as $$
  select least(interval '30 seconds' * 2 ^ least(greatest(p_attempts, 1) - 1, 20), interval '1 hour')
$$;
comment on function pgonce_alert_backoff(integer) is 'pgonce: the time from the end of this attempt to the next one.';

create or replace function pgonce_claim_alerts(p_channel text)
returns table (id uuid, attempt integer, kind text, subject text, message text, detail jsonb, created_at timestamptz)
language sql set search_path from current as $$
  update pgonce_alerts a set attempts = a.attempts + 1, next_attempt_at = clock_timestamp() + interval '1 minute'
  -- The subject with the newest alert comes first: otherwise a thousand alerts of one job would delay the first one of
  -- another. Within a subject the oldest alert comes first. "recovered" also waits for those that another worker is delivering and for
  -- those that the channel has refused: read after it, "failed" would be taken for the state of now.
  where a.id in (
    select d.id from pgonce_alerts d
    join (select n.subject, max(n.created_at) as newest from pgonce_alerts n
          where n.channel = p_channel and n.delivered_at is null group by n.subject) s on s.subject = d.subject
    where d.channel = p_channel and d.delivered_at is null
      and (d.next_attempt_at <= clock_timestamp()
        or d.next_attempt_at > clock_timestamp() + pgonce_alert_backoff(d.attempts) + interval '1 minute'
          and not exists (select from pgonce_alert_mutes m
                          where m.kind = d.kind and m.subject = d.subject and m.muted_until > clock_timestamp()))
      and not exists (
        select from pgonce_alerts o
        where d.kind = 'recovered' and o.channel = p_channel and o.subject = d.subject and o.delivered_at is null
          and o.created_at < d.created_at and (o.attempts > 0 or o.next_attempt_at <= clock_timestamp()))
    order by s.newest desc, d.subject, d.created_at limit 1 for update of d skip locked)
  returning a.id, a.attempts, a.kind, a.subject, a.message, a.detail, a.created_at
$$;
comment on function pgonce_claim_alerts(text) is
  'pgonce: claims an alert of the channel that is due, for a minute, of the subject with the newest alert; then call '
  'pgonce_alert_delivered or pgonce_alert_failed.';

create or replace function pgonce_alert_delivered(p_id uuid) returns boolean
language plpgsql set search_path from current as $$
begin
  update pgonce_alerts set delivered_at = clock_timestamp(), last_error = null where id = p_id and delivered_at is null;
  if not found and not exists (select from pgonce_alerts where id = p_id) then
    raise sqlstate 'PT404' using message = format('there is no alert %s', p_id);
  end if;
  return true;
end $$;
comment on function pgonce_alert_delivered(uuid) is 'pgonce: the channel has accepted the alert. true, also when repeated.';

create or replace function pgonce_alert_failed(p_id uuid, p_attempt integer, p_error text) returns boolean
language plpgsql set search_path from current as $$
begin
  update pgonce_alerts
  set last_error = p_error,
      next_attempt_at = clock_timestamp() + pgonce_alert_backoff(attempts)
  where id = p_id and attempts = p_attempt and delivered_at is null;
  if found then return true; end if;
  if not exists (select from pgonce_alerts where id = p_id) then
    raise sqlstate 'PT404' using message = format('there is no alert %s', p_id);
  end if;
  return false;
end $$;
comment on function pgonce_alert_failed(uuid, integer, text) is
  'pgonce: this attempt failed: it is due again after 30 seconds, doubled with each attempt, at most an hour. '
  'p_attempt: as claimed. false = another worker is delivering it, or has delivered it.';
