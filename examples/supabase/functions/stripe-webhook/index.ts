// A Supabase Edge Function (Deno). Deploy it with --no-verify-jwt: Stripe sends no token of Supabase, but a signature.
// Needs the secrets STRIPE_API_KEY and STRIPE_WEBHOOK_SECRET; Supabase sets the other two.
import { createClient } from 'npm:@supabase/supabase-js@2';
import { pgonce, Unhandled } from 'npm:pgonce';
import Stripe from 'npm:stripe';

const stripe = new Stripe(Deno.env.get('STRIPE_API_KEY')!);
const cryptoProvider = Stripe.createSubtleCryptoProvider(); // Deno's cryptography is asynchronous: constructEventAsync alone works
const client = createClient(Deno.env.get('SUPABASE_URL')!, Deno.env.get('SUPABASE_SERVICE_ROLE_KEY')!, {
  auth: { persistSession: false },
});
const { handleWebhook } = pgonce(client);

Deno.serve(async (request) => {
  const body = await request.text(); // as received: the signature is of these bytes, not of parsed JSON
  let event: Stripe.Event;
  try {
    event = await stripe.webhooks.constructEventAsync(
      body, request.headers.get('stripe-signature') ?? '', Deno.env.get('STRIPE_WEBHOOK_SECRET')!, undefined, cryptoProvider);
  } catch {
    return new Response('the signature does not match', { status: 400 });
  }
  try {
    const outcome = await handleWebhook(event, body, () => handle(event));
    return new Response(outcome, { status: outcome === 'busy' ? 409 : 200 });
  } catch (error) {
    console.error(`event ${event.id} failed`, error);
    return new Response('failed', { status: 500 }); // Stripe delivers it again
  }
});

/** What an event does to your tables. A failure between this and the mark repeats it: write what may be written twice. */
async function handle(event: Stripe.Event): Promise<void> {
  if (event.type !== 'checkout.session.completed') throw new Unhandled(); // ends as ignored; another app may handle it
  await client
    .from('access_grants')
    .upsert({ stripe_event_id: event.id, customer: event.data.object.customer }, { onConflict: 'stripe_event_id' })
    .throwOnError();
}
