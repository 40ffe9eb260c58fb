// The specification's webhook pattern, unchanged, as a route of Next.js, Deno or anything that speaks Request and
// Response. `constructEvent` is (body, signature) => stripe.webhooks.constructEventAsync(body, signature, secret).
import type { Pgonce } from 'pgonce';

interface StripeEvent {
  id: string;
  type: string;
}

export function webhookRoute(
  { supabase }: Pgonce,
  constructEvent: (body: string, signature: string) => StripeEvent | Promise<StripeEvent>,
  handle: (event: StripeEvent) => Promise<void>,
) {
  return async function POST(request: Request): Promise<Response> {
    const event = await constructEvent(await request.text(), request.headers.get('stripe-signature') ?? '');
    const { rows } = await supabase.rpc('insert_webhook_if_new', {
      p_stripe_event_id: event.id,
      p_event_type:      event.type,
      p_payload:         event,
    });
    if (rows.length === 0) {
      // Already processed — idempotent early return
      return new Response('ok', { status: 200 });
    }
    await handle(event);
    await supabase
      .from('webhook_events')
      .update({ status: 'succeeded', processed_at: new Date().toISOString() })
      .eq('stripe_event_id', event.id);
    return new Response('ok', { status: 200 });
  };
}
