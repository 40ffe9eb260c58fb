-- Finds the events that people should be alerted about, by reading the tables. Nothing is written here.
--
-- For each kind, job and hour at most three alerts are about single runs. From the fourth run on, they become one alert with
-- the count and the newest examples. It is a new alert each time that the count gets one more digit: 3,000 failing keys of a
-- job cause one alert if they fail together, and seven (three of single runs) if they fail one after another.

create or replace function pgonce_shell_word(p_text text) returns text
language sql immutable parallel safe set search_path from current as $$
  select case when p_text ~ '^[A-Za-z0-9_@%+=:,./][A-Za-z0-9_@%+=:,./-]*$' then p_text
              else '''' || replace(p_text, '''', '''"''"''') || '''' end
$$;
comment on function pgonce_shell_word(text) is 'pgonce: the text as one word of a shell command: quoted where it has to be.';

create or replace function pgonce_command(p_command text, p_value text default null) returns text
language sql stable parallel safe set search_path from current as $$
  -- an argument that begins with a dash is not an option after "--", and neither is what follows it
  select case when p_value like '-%' and p_command !~ ('--[a-z]+ ' || c.place) then
                replace(p_command, ' ' || c.place, '') || c.schema || ' -- ' || pgonce_shell_word(p_value)
              else replace(p_command, coalesce(c.place, ''), coalesce(pgonce_shell_word(p_value), '')) || c.schema end
  from (select substring(p_command from '\m(ID|NAME|RUN|TYPE)\M') as place,
               case when current_schema() = 'public' then '' else ' --schema ' || pgonce_shell_word(current_schema()) end as schema) c
$$;
comment on function pgonce_command(text, text) is
  'pgonce: a command of pgonce for this schema, as it may be pasted into a shell. p_value stands for ID, NAME, RUN or TYPE in it.';

create or replace function pgonce_duration_text(p_duration interval) returns text
language sql immutable parallel safe set search_path from current as $$
  select case when s.n < 10 then trim_scale(round(s.n, 1))::text || ' s' when s.n < 60 then round(s.n)::text || ' s'
              when s.n < 600 then trim_scale(round(s.n / 60, 1))::text || ' min'
              when s.n < 3600 then floor(s.n / 60)::text || ' min'
              when s.n < 86400 then floor(s.n / 3600)::text || ' h ' || (floor(s.n / 60)::int % 60)::text || ' min'
              else floor(s.n / 86400)::text || ' d ' || (floor(s.n / 3600)::int % 24)::text || ' h' end
  from (select extract(epoch from p_duration)::numeric as n) s
$$;
comment on function pgonce_duration_text(interval) is 'pgonce: a length of time for people, such as 42 s, 4.9 min or 3 h 10 min.';

create or replace function pgonce_number_text(p_number bigint) returns text
language sql immutable parallel safe set search_path from current as $$
  select ltrim(to_char(p_number, '9,999,999,999,999,999,990'))
$$;
comment on function pgonce_number_text(bigint) is 'pgonce: a number for people, such as 310,000.';

create or replace function pgonce_alert_reason(p_error text) returns text
language sql immutable parallel safe set search_path from current as $$
  select coalesce(pgonce_error_line(p_error), 'no reason given') || coalesce(' (' || pgonce_error_place(p_error) || ')', '')
$$;
comment on function pgonce_alert_reason(text) is 'pgonce: an error in one line, with the place in the user''s code where there is one.';

create or replace function pgonce_find_alerts(p_since timestamptz, p_watched uuid[])
returns table (kind text, subject text, dedupe_key text, message text, detail jsonb, happened_at timestamptz,
               series text, digits integer)
language plpgsql stable set search_path from current as $$
declare
  v_in_a_row constant integer := 3;
  v_utc constant text := 'YYYY-MM-DD HH24:MI "UTC"';
  v_epoch constant timestamptz := '2000-01-01 00:00:00Z';
  v_now timestamptz := clock_timestamp();
  -- Whole hours: with a part of an hour, the count would differ between two calls. Not date_trunc: its hours are those of the
  -- session's time zone, which may begin at half past.
  v_from timestamptz := date_bin('1 hour', p_since, v_epoch);
begin
  -- isfinite: SQL accepts "infinity" for the end of a run that is at work. It has no hour and no length, and the error would keep
  -- all other alerts from being stored.
  return query
  with recent as (
    select r.job_name, count(*) as runs from cron_job_runs r
    where r.started_at >= v_from and r.status <> 'skipped' and isfinite(r.started_at) group by r.job_name
    union all
    select r.job_name, 0 from cron_job_runs r where r.id = any (p_watched) and r.started_at < v_from),
  -- A failed import is found as an import, below, and not as a run of its runner. Streaks are searched in a job's new runs
  -- and the 25 before: one bounded index scan per job. A scan per key could be a scan per run. "any (array[…])" and job_name
  -- in the order: with "=" the planner may scan idx_cron_runs_started, and for a job with few runs it reads to the end of the
  -- table.
  newest as (
    select h.* from (
      select c.job_name, sum(c.runs)::bigint as runs from recent c where c.job_name <> 'seed_runner' group by c.job_name) j
    cross join lateral (
      select r.id, r.job_name, r.key, r.status, r.started_at, case when isfinite(r.completed_at) then r.completed_at end as completed_at,
             r.duration_ms, r.scheduled_for, r.error_message, r.attempt, r.retries, r.retry_of, r.stop_requested_at
      from cron_job_runs r where r.job_name = any (array[j.job_name]) and r.status <> 'skipped' and isfinite(r.started_at)
      order by r.job_name, r.started_at desc limit j.runs + 25) h),
  -- A watched run may be missing from these, because other keys have had many runs since.
  history as (
    select n.* from newest n
    union all
    select r.id, r.job_name, r.key, r.status, r.started_at, case when isfinite(r.completed_at) then r.completed_at end as completed_at,
           r.duration_ms, r.scheduled_for, r.error_message, r.attempt, r.retries, r.retry_of, r.stop_requested_at
    from cron_job_runs r
    where r.id = any (p_watched) and r.job_name <> 'seed_runner' and isfinite(r.started_at)
      and not exists (select from newest n where n.id = r.id)),
  -- A failure that was or will be retried does not count yet, unless no worker retries it within 15 minutes. A run that was
  -- stopped on request does not count at all. A newer tick replaces a retry: then there is neither a retry nor a next attempt. If it
  -- replaces a run whose worker was stopped, nothing has failed: a deploy just before the tick of a minute led to an alert. The
  -- next attempt started after the run, so it is in history, too, and needs no index on retry_of.
  ends as (
    select h.*, lag(h.status) over w as previous, count(*) filter (where h.status = 'succeeded') over w as successes
    from history h
    left join pgonce_job_retries d on d.run_id = h.id
    left join (select distinct n.retry_of from history n) retried on retried.retry_of = h.id
    where h.status = 'succeeded'
       or h.status = 'failed' and h.stop_requested_at is null
          and (h.retries is null or h.attempt > h.retries
               or retried.retry_of is null and (d.due_at >= v_now - interval '15 minutes') is not true
                  and (d.run_id is not null or not pgonce_is_interruption(h.error_message)))
    window w as (partition by h.job_name, h.key order by h.started_at, h.id)),
  streaks as (
    select e.*, count(*) filter (where e.status = 'failed') over (
             partition by e.job_name, e.key, e.successes order by e.started_at, e.id) as failures,
           min(e.started_at) filter (where e.status = 'failed') over (partition by e.job_name, e.key, e.successes) as since,
           (e.started_at at time zone 'UTC')::date is distinct from
             (lag(e.started_at) over (partition by e.job_name, e.key order by e.started_at, e.id) at time zone 'UTC')::date as first_of_day
    from ends e),
  job_events as (
    select case when e.status = 'succeeded' then 'recovered'
                when e.failures < v_in_a_row then 'run_failed' else 'failed_in_a_row' end as kind,
           e.job_name, e.key, e.id, e.scheduled_for, coalesce(e.completed_at, e.started_at) as happened_at,
           -- Once a day, identified by the date: the beginning of a long streak is not read. With the length of the name, because
           -- names and keys may have slashes.
           case when e.failures > v_in_a_row
                then concat_ws('/', length(e.job_name), e.job_name, e.key, to_char(e.started_at at time zone 'UTC', 'YYYY-MM-DD'))
                else e.id::text end as once,
           case when e.status = 'succeeded' then 'has succeeded again'
                when e.failures < v_in_a_row then 'failed'
                when e.failures = v_in_a_row then format('failed %s times in a row', v_in_a_row)
                else 'is still failing' end as says,
           e.status = 'failed' as has_reason, e.error_message
    from streaks e
    -- A run that waited for a retry is reported when the retry is cancelled. A backoff is at most a day.
    where coalesce(e.completed_at, e.started_at)
            >= v_from - case when e.attempt <= e.retries and e.id = any (p_watched) then interval '2 days' else '0' end
      -- The beginning of a streak of more than 25 failures may not have been read.
      and (e.status = 'failed' and (e.failures <= v_in_a_row
                                    or e.first_of_day and (e.started_at >= e.since + interval '1 day' or e.failures > 25))
           or e.status = 'succeeded' and e.previous = 'failed')
    union all
    select 'ran_long', h.job_name, h.key, h.id, h.scheduled_for,
           h.started_at + greatest(60000, 3 * usual.p95) * interval '1 ms', h.id::text,
           format('takes far longer than usual: %s; 95 %% of its last runs took no more than %s',
                  pgonce_duration_text(spent.ms * interval '1 ms'), pgonce_duration_text(usual.p95 * interval '1 ms')),
           false, null
    from history h
    cross join lateral (
      select coalesce(h.duration_ms, extract(epoch from v_now - h.started_at) * 1000)::double precision as ms) spent
    cross join lateral (
      select count(*) as runs, percentile_disc(0.95) within group (order by u.duration_ms) as p95
      from (select b.duration_ms from (
              select r.duration_ms, r.key, r.status from cron_job_runs r
              where r.job_name = any (array[h.job_name]) and r.started_at < h.started_at
              order by r.job_name, r.started_at desc limit 200) b
            where b.key = h.key and b.status = 'succeeded' limit 20) u) usual
    where spent.ms > 60000 and (h.status = 'running' or h.completed_at >= v_from)
      and usual.runs >= 5 and spent.ms > 3 * usual.p95  -- fewer than five runs do not show the usual duration
      and not exists (select from pgonce_job_expectations x
                      where x.job_name = h.job_name and x.within is not null and pgonce_is_expected_key(h.key, x.key))
    union all
    select 'ran_long', h.job_name, h.key, h.id, h.scheduled_for, h.started_at + x.within, h.id::text,
           format('takes longer than expected: %s, and not less than %s',
                  pgonce_duration_text(pgonce_elapsed(h.started_at, coalesce(h.completed_at, v_now))), pgonce_duration_text(x.within)), false, null
    from pgonce_job_expectations x join history h on h.job_name = x.job_name and pgonce_is_expected_key(h.key, x.key)
    where (h.status = 'running' or h.completed_at >= v_from) and pgonce_elapsed(h.started_at, coalesce(h.completed_at, v_now)) >= x.within
      -- what is expected of the key counts, and not what is expected of the job
      and not (x.key = '' and exists (select from pgonce_job_expectations y
                                      where y.job_name = h.job_name and y.key <> '' and y.within is not null
                                        and pgonce_is_expected_key(h.key, y.key)))
    union all
    -- All skipped runs between two starts name the same run.
    select 'skipped_in_a_row', b.job_name, b.key, b.id, null::timestamptz, s.at, b.id::text,
           format('was skipped %s times in a row: run %s has blocked it since %s',
                  v_in_a_row, b.id, to_char(b.started_at at time zone 'UTC', v_utc)), false, null
    from (select r.blocked_by, max(r.started_at) as at from cron_job_runs r
          where r.started_at >= v_from and isfinite(r.started_at) and r.status = 'skipped' and r.blocked_by is not null and r.job_name <> 'seed_runner'
          group by r.blocked_by) s
    join cron_job_runs b on b.id = s.blocked_by and isfinite(b.started_at)
    where v_in_a_row = (
      select count(*) from (
        select from cron_job_runs r
        where r.job_name = b.job_name and r.started_at >= b.started_at and r.blocked_by = b.id limit v_in_a_row) skips)
    union all
    select 'did_not_run', m.job_name, m.key, null::uuid, m.scheduled_for, m.missed_at,
           concat_ws('/', length(m.job_name), m.job_name, m.key, extract(epoch from m.scheduled_for)),
           format('did not run at %s', to_char(m.scheduled_for at time zone 'UTC', v_utc)), true, m.reason
    from pgonce_job_missed m where m.missed_at >= v_from),
  events as (
    select j.kind, j.job_name as parent, n.subject, j.happened_at, j.once, format('job %s %s', n.subject, j.says) as says,
           case j.kind when 'run_failed' then 'runs of job %s failed' when 'failed_in_a_row' then 'failures in a row of job %s'
                       when 'recovered' then 'times job %s has succeeded after a failure'
                       when 'ran_long' then 'runs of job %s took longer than usual or expected'
                       when 'skipped_in_a_row' then 'runs of job %s blocked the starts after them'
                       else 'ticks of job %s did not run' end as many,
           j.has_reason, j.error_message, jsonb_build_object('subject', n.subject, 'run_id', j.id) as example,
           case when j.id is null or j.kind = 'recovered' then pgonce_command('pgonce job ls --job NAME', j.job_name)
                else pgonce_command('pgonce job show RUN', j.id::text) end as command,
           pgonce_command('pgonce job ls --job NAME'
             || case when j.kind in ('run_failed', 'failed_in_a_row') then ' --status failed' else '' end, j.job_name) as command_for_many,
           jsonb_build_object('job_name', j.job_name, 'key', j.key, 'run_id', j.id, 'scheduled_for', j.scheduled_for) as detail,
           jsonb_build_object('job_name', j.job_name) as detail_of_many
    from job_events j cross join lateral (select j.job_name || coalesce('/' || nullif(j.key, ''), '') as subject) n
    union all
    select i.kind, 'imports', i.seed_name, i.happened_at, i.seed_name || '/' || extract(epoch from i.last_updated_at)::text,
           format('import %s %s', i.seed_name, i.says), i.many, i.kind = 'import_failed', i.error_message,
           jsonb_build_object('subject', i.seed_name), pgonce_command('pgonce seed show NAME', i.seed_name), pgonce_command('pgonce seed ls'),
           jsonb_build_object('seed_name', i.seed_name), '{}'
    from (
      select 'import_failed' as kind, s.seed_name, s.last_updated_at as happened_at, 'failed' as says, '%s failed' as many,
             s.error_message, s.last_updated_at
      from seed_checkpoints s where s.status = 'failed' and s.last_updated_at >= v_from
      union all
      -- A day, whatever p_since is: its runner may have been alive without a batch for hours before it died.
      select 'import_stalled', s.seed_name, s.last_updated_at + interval '15 minutes',
             format('has stalled: no batch since %s, and no process is working on it; run it again, and it resumes',
                    to_char(s.last_updated_at at time zone 'UTC', v_utc)), '%s have stalled', null, s.last_updated_at
      from seed_checkpoints s
      where s.status = 'in_progress' and s.paused_at is null and s.last_updated_at < v_now - interval '15 minutes'
        and s.last_updated_at >= least(v_from, v_now - interval '1 day')
        and not exists (select from pgonce_get_runners(s.seed_name) w where w.alive)) i
    union all
    select w.kind, w.event_type, w.event_type, w.happened_at, w.stripe_event_id,
           format('event %s of type %s %s', w.stripe_event_id, w.event_type, k.says), 'events of type %s ' || k.says_of_many, true,
           w.error_message, jsonb_build_object('stripe_event_id', w.stripe_event_id),
           pgonce_command('pgonce webhook show ID', w.stripe_event_id),
           pgonce_command(format('pgonce webhook ls --status %s --type TYPE', k.status), w.event_type),
           jsonb_build_object('stripe_event_id', w.stripe_event_id, 'event_type', w.event_type, 'events', 1),
           jsonb_build_object('event_type', w.event_type)
    from (
      select case when e.queued or u.until <= v_now then 'dead_webhook' else 'webhook_failed' end as kind,
             e.event_type, e.stripe_event_id, e.error_message, t.at as happened_at
      from webhook_events e
      -- Until then the next delivery retries an event that failed in a direct client.
      cross join lateral (select pgonce_delivered_until(e.provider, e.received_at) as until) u
      cross join lateral (
        select case when e.queued or u.until > v_now then coalesce(e.processed_at, e.received_at)
                    else greatest(e.processed_at, u.until) end as at) t
      where e.status = 'failed' and e.next_attempt_at is null and t.at >= v_from
        and (e.queued or e.lease is not null or u.until <= v_now)) w  -- no lease: its handler has asked for the next delivery
    join (values ('dead_webhook', 'dead', 'is a dead letter: nothing retries it', 'are dead letters: nothing retries them'),
                 ('webhook_failed', 'failed', 'failed, and the sender''s next delivery retries it',
                  'failed, and the sender''s next deliveries retry them')) k (kind, status, says, says_of_many) on k.kind = w.kind),
  hours as (
    select e.*, format('%s/%s/%s', e.kind, e.parent, extract(epoch from h.hour)::bigint) as series, h.hour,
           -- events of one type are combined from the second one on
           case when e.kind in ('dead_webhook', 'webhook_failed') then 1 else 3 end as alone
    from events e cross join lateral (select date_bin('1 hour', e.happened_at, v_epoch) as hour) h),
  counted as (
    select h.*, count(*) over (partition by h.series) as events,
           row_number() over (partition by h.series order by h.happened_at desc, h.once) as place
    from hours h),
  examples as (  -- not by a subquery for each series: it would read all events again for each
    select n.series, jsonb_agg(n.example || jsonb_build_object('reason', pgonce_error_line(n.error_message)) order by n.place) as examples
    from counted n where n.events > n.alone and n.place <= 3 group by n.series)
  select c.kind, c.subject, c.kind || '/' || c.once, 
         format('%s%s. Next: `%s`', c.says, case when c.has_reason then ': ' || pgonce_alert_reason(c.error_message) else '' end,
                c.command),
         c.detail || jsonb_build_object('command', c.command), c.happened_at, c.series, 0
  from counted c where c.events <= c.alone
  union all
  select c.kind, c.parent, format('%s/%s', c.series, length(c.events::text)),
         format('%s %s since %s; the newest: %s%s. Next: `%s`',
                pgonce_number_text(c.events), format(c.many, c.parent), to_char(c.hour at time zone 'UTC', v_utc),
                case when c.subject = c.parent then c.example ->> 'stripe_event_id' else c.subject end,
                case when c.has_reason then ': ' || pgonce_alert_reason(c.error_message) else '' end, c.command_for_many),
         c.detail_of_many || jsonb_build_object(
           'events', c.events, 'since', c.hour, 'command', c.command_for_many, 'examples', x.examples),
         c.happened_at, c.series, length(c.events::text)
  from counted c join examples x on x.series = c.series where c.events > c.alone and c.place = 1
  order by 6;
  return query select * from pgonce_find_delivery_alerts(v_from);
end $$;
comment on function pgonce_find_alerts(timestamptz, uuid[]) is
  'pgonce: the alerts about what happened since the beginning of that hour: failed, late, skipped and missing runs, failed '
  'webhook events, imports that failed or stalled. p_watched: runs that started before, and were running or waiting for a '
  'retry. dedupe_key is the same at every call. More than three alerts of one series (kind, subject, hour) become one alert. '
  'digits is the number of digits of its count; for an alert about a single run it is 0.';
