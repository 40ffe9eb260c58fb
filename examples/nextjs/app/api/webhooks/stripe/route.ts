// Next.js: POST /api/webhooks/stripe. Needs STRIPE_API_KEY, STRIPE_WEBHOOK_SECRET, SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY.
import { createClient } from '@supabase/supabase-js';
import { pgonce, Unhandled } from 'pgonce';
import Stripe from 'stripe';

const stripe = new Stripe(process.env.STRIPE_API_KEY!);
const client = createClient(process.env.SUPABASE_URL!, process.env.SUPABASE_SERVICE_ROLE_KEY!, {
  auth: { persistSession: false },
});
const { handleWebhook } = pgonce(client);

export async function POST(request: Request): Promise<Response> {
  const body = await request.text(); // as received: the signature is of these bytes, not of parsed JSON
  let event: Stripe.Event;
  try {
    event = await stripe.webhooks.constructEventAsync(
      body, request.headers.get('stripe-signature') ?? '', process.env.STRIPE_WEBHOOK_SECRET!);
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
}

/** What an event does to your tables. A failure between this and the mark repeats it: write what may be written twice. */
async function handle(event: Stripe.Event): Promise<void> {
  if (event.type !== 'checkout.session.completed') throw new Unhandled(); // ends as ignored; another app may handle it
  await client
    .from('access_grants')
    .upsert({ stripe_event_id: event.id, customer: event.data.object.customer }, { onConflict: 'stripe_event_id' })
    .throwOnError();
}
