// What test_typescript.py runs: `node out/scenarios.js NAME [JSON arguments]` prints what the scenario returns as JSON.
import { createClient } from '@supabase/supabase-js';
import { existsSync } from 'node:fs';
import ws from 'ws';

import { portraitRegen } from './job.ts';
import { Ignored, pgonce, Unhandled } from 'pgonce';
import { seedWebKjv, type Chapter } from './seed.ts';
import { webhookRoute } from './webhook.ts';

const url = process.env.POSTGREST_URL!;
const client = createClient(url, process.env.SERVICE_ROLE_KEY!, {
  auth: { persistSession: false },
  realtime: { transport: ws as any }, // Node before 22 has no WebSocket
  // PostgREST itself: on Supabase a gateway in front of it takes this prefix away
  global: { fetch: (input, init) => fetch(String(input).replace('/rest/v1', ''), init) },
});
const helpers = pgonce(client);

const scenarios: { [name: string]: (...args: any[]) => Promise<unknown> } = {
  /** Delivers `event` and counts the handler's calls; `failures` of them throw. */
  async deliver(event: { id: string; type: string }, times = 1, failures = 0) {
    let handled = 0;
    const statuses: number[] = [];
    const route = webhookRoute(helpers, (body) => JSON.parse(body), async () => {
      handled += 1;
      if (handled <= failures) throw new Error('the handler failed');
    });
    for (let i = 0; i < times; i += 1) {
      const request = new Request('http://localhost/api/webhooks/stripe', { method: 'POST', body: JSON.stringify(event) });
      statuses.push(await route(request).then((response) => response.status, () => 500)); // what Next.js answers
    }
    return { handled, statuses };
  },

  /** `n` parallel calls of insert_webhook_if_new for one event: how many got a row, and how the others were refused. */
  async race(event: { id: string; type: string }, n: number) {
    const results = await Promise.all(Array.from({ length: n }, () =>
      client.rpc('insert_webhook_if_new', { p_stripe_event_id: event.id, p_event_type: event.type, p_payload: event })));
    return {
      rows: results.filter(({ error, data }) => !error && data.length === 1).length,
      refused: results.filter(({ error }) => error).map(({ status, error }) => [status, error!.code]),
    };
  },

  async job(outcome: 'succeed' | 'fail') {
    let called = 0;
    const run = portraitRegen(helpers, async () => {
      called += 1;
      await portraitRegen(helpers, async () => { called += 1; return 0; })(); // a second one, meanwhile
      if (outcome === 'fail') throw new Error('no paint left');
      return 7;
    });
    await run();
    return called;
  },

  /** Works until the file `until` exists. */
  async longJob(windowMinutes: number, until: string) {
    const runId = await helpers.startJobRun('weekly_letters', { windowMinutes });
    while (!existsSync(until)) await new Promise((resolve) => setTimeout(resolve, 20));
    return { runId, completed: await helpers.completeJobRun(runId!) };
  },

  /** A handler throws what supabase-js answers to a call that PostgreSQL refuses. */
  async refused(event: { id: string; type: string }) {
    return helpers.handleWebhook(event, JSON.stringify(event), async () => {
      const { error } = await client.rpc('start_job_run', { p_job_name: '' });
      if (error) throw error;
    }).catch(() => 'thrown');
  },

  /** A handler throws an object of which neither JSON nor a text can be made. */
  async unprintable(event: { id: string; type: string }) {
    const thrown: { of?: unknown; amount: bigint } = { amount: 5n };
    thrown.of = thrown;
    return helpers.handleWebhook(event, JSON.stringify(event), async () => { throw thrown; })
      .catch((error) => (error === thrown ? 'thrown' : 'another error'));
  },

  /** A route of JavaScript passes what Node's stream gives. */
  async bytes(event: { id: string; type: string }) {
    const body: any = Buffer.from(JSON.stringify(event));
    return helpers.handleWebhook(event, body, async () => {}).catch((error) => error.message);
  },

  /** The milliseconds between the heartbeats of a run. */
  async beatEvery(windowMinutes: number) {
    const setInterval = globalThis.setInterval;
    let every = 0;
    globalThis.setInterval = ((call: () => void, ms: number) => { every = ms; return setInterval(call, ms); }) as any;
    await helpers.completeJobRun((await helpers.startJobRun('yearly', { windowMinutes }))!);
    return every;
  },

  /** A handler ignores the event: with a reason, or because there is no handler. */
  async ignored(event: { id: string; type: string }, why: string | null) {
    return helpers.handleWebhook(event, JSON.stringify(event), async () => {
      throw why === null ? new Unhandled() : new Ignored(why);
    });
  },

  async startJobRun(...args) { return helpers.startJobRun(...(args as [string])); },
  async completeJobRun(...args) { return helpers.completeJobRun(...(args as [string])); },
  async failJobRun(...args) { return helpers.failJobRun(...(args as [string, string])); },

  /** Imports chapters 1 to `last` of Genesis, as far as `stop`; which chapters were written this time. */
  async seed(last: number, stop: number) {
    const written: number[] = [];
    function* chaptersAfter(book: string, chapter: number): Iterable<Chapter> {
      for (let next = chapter + 1; next <= last; next += 1) yield { book, chapter: next };
    }
    await seedWebKjv(helpers, chaptersAfter, async ({ chapter }) => {
      if (chapter > stop) throw new Error('the power went out');
      written.push(chapter);
    }).catch((error) => { if (error.message !== 'the power went out') throw error; });
    return written;
  },

  /** supabase-js alone, without pgonce.ts: what a caller sees of a function. */
  async rpc(name: string, args: object) {
    const { data, error, status } = await client.rpc(name, args);
    return { data, status, code: error?.code ?? null, message: error?.message ?? null, hint: error?.hint ?? null };
  },
};

const [name, ...args] = process.argv.slice(2);
console.log(JSON.stringify(await scenarios[name](...args.map((arg) => JSON.parse(arg))) ?? null));
