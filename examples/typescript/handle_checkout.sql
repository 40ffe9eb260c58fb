-- Exactly once from TypeScript: a request to PostgREST is one transaction, so claim, effect and mark stand in one
-- function. If the effect fails, nothing is written, the caller gets an error, and Stripe's next delivery starts anew.
--   const { data, error } = await supabase.rpc('handle_checkout', { p_body: body })   // the raw, verified body
create or replace function handle_checkout(p_body text) returns text
language plpgsql as $$
declare
  e jsonb := p_body;
  claim record;
begin
  select * into claim from claim_webhook(e ->> 'id', e ->> 'type', p_body);
  if claim.outcome = 'busy' then  -- another client is handling it, and may die: Stripe must deliver it again
    raise sqlstate 'PT409' using message = 'this event is being handled by another client';
  elsif claim.outcome = 'claimed' then
    insert into access_grants (stripe_event_id, customer) values (e ->> 'id', e #>> '{data,object,customer}');
    perform complete_webhook(claim.id, claim.lease);
  end if;
  return claim.outcome;
end $$;
revoke all on function handle_checkout from public, anon, authenticated;
grant execute on function handle_checkout to service_role;
notify pgrst, 'reload schema';
