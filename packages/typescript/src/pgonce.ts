// pgonce over supabase-js: the helpers of the specification's three usage patterns, and one for webhook routes. Every function
// here calls a SQL function and adds nothing to its guarantee.
import type { SupabaseClient } from '@supabase/supabase-js';

import type { Checkpoint, Functions, Json } from './functions.ts';

export type { Checkpoint, Functions, Json };

export interface StartOptions {
  /** What the run works on, for people to read. */
  scope?: { [key: string]: Json };
  /** Minutes without a heartbeat after which the run counts as dead. */
  windowMinutes?: number;
  /** Runs with different keys may run at the same time. */
  key?: string;
  /** The scheduled time that this run is for. Only one run starts for it, on any machine. */
  scheduledFor?: Date;
  /** A new uuid of yours as the run's id. If the answer is lost, the same call again returns the same run. */
  runId?: string;
}

/** Throw it in the handler of `handleWebhook`: the event ends as ignored, with this reason. */
export class Ignored extends Error {}

/** Throw it where there is no handler for the event's type: a worker or another route that has one handles it. */
export class Unhandled extends Ignored {}

/**
 * What was thrown, as text that PostgreSQL can hold: without NUL and halves of surrogate pairs. supabase-js's `error`, which
 * routes throw, is an object without a class: { message, code, ... }.
 */
function reason(error: unknown): string {
  let text: unknown;
  try {
    if (error instanceof Error || typeof error !== 'object' || error === null) text = String(error);
    else text = 'message' in error ? String(error.message) : JSON.stringify(error);
  } catch {
    text = 'what was thrown has no text'; // it refers to itself, or holds a bigint
  }
  return String(text).replace(/[\0\p{Surrogate}]/gu, '\ufffd');
}

// any: the types of the user's database, and the schema that the client is for
export function pgonce(client: SupabaseClient<any, any, any>) {
  // supabase-js returns { data, error } and never throws. Here an error is thrown (its `code` is the SQLSTATE: PT409, 22023,
  // ...), because a route that ignores it would answer 200, and Stripe would never send the event again.
  async function rpc(name: string, args: { [key: string]: unknown } = {}) {
    const { data } = await client.rpc(name, args).throwOnError();
    return { data, rows: Array.isArray(data) ? data : [data] };
  }

  async function call<N extends keyof Functions>(
    name: N, args: Functions[N]['Args'],
  ): Promise<Functions[N]['Returns']> {
    return (await rpc(name, args)).data;
  }

  const beating = new Map<string, ReturnType<typeof setInterval>>();

  function stopBeating(runId: string) {
    clearInterval(beating.get(runId));
    beating.delete(runId);
  }

  function beat(runId: string, minutes: number) {
    const beatOnce = () =>
      call('beat_job_run', { p_run_id: runId }).then(
        (ours: boolean) => { if (!ours) stopBeating(runId); },
        () => {}, // no connection at this moment: the next heartbeat tries again
      );
    // A timer of more than 2**31 - 1 ms (24.8 days) would fire every millisecond.
    const timer = setInterval(beatOnce, Math.min((minutes * 60_000) / 3, 2 ** 31 - 1));
    (timer as { unref?: () => void }).unref?.(); // Node: a timer alone keeps no process alive
    beating.set(runId, timer);
  }

  return {
    /** The two methods that the patterns use: `rpc` answers with `rows`, and throws; `from` is supabase-js's own. */
    supabase: { rpc, from: (table: string) => client.from(table) },

    /**
     * Handles a verified event: claim, `handle`, mark. `body` is the body as received.
     *
     * 'succeeded', 'ignored': handled now, or `handle` threw `Ignored`. 'done': it was handled before, or a worker will
     * handle it; answer 200. 'busy': another request is handling it; answer with an error, so that Stripe delivers it
     * again. If `handle` throws anything else, the failure is recorded and the error is thrown again: the route answers
     * 500, and Stripe's next delivery is the retry.
     *
     * Effect and mark are two requests, so the effect happens at least once. For exactly once, put both into a SQL function.
     */
    async handleWebhook(
      event: { id: string; type: string }, body: string, handle: () => Promise<unknown>,
    ): Promise<'succeeded' | 'ignored' | 'done' | 'busy'> {
      // A Buffer is recorded as {"type": "Buffer", "data": [...]}, and a replay would handle that.
      if (typeof body !== 'string') throw new TypeError('the body must be text: await request.text(), or buffer.toString()');
      const [claim] = await call('claim_webhook', { p_stripe_event_id: event.id, p_event_type: event.type, p_body: body });
      if (claim.outcome !== 'claimed') return claim.outcome === 'busy' ? 'busy' : 'done';
      const mine = { p_id: claim.id, p_lease: claim.lease };
      try {
        await handle();
      } catch (error) {
        if (error instanceof Ignored) {
          const unhandled = error instanceof Unhandled;
          const why = unhandled ? `no handler for ${event.type}` : reason(error.message);
          return (await call('ignore_webhook', { ...mine, p_reason: why, p_unhandled: unhandled })) ? 'ignored' : 'busy';
        }
        // If this fails, too, the lease expires after five minutes, and the next delivery is handled all the same.
        await call('fail_webhook', { ...mine, p_error_message: reason(error) }).catch(() => {});
        throw error;
      }
      return (await call('complete_webhook', mine)) ? 'succeeded' : 'busy';
    },

    /**
     * The run's id, or null if another run is running or one has started for `scheduledFor` already. Until the run is completed
     * or failed, a heartbeat is sent every third of the window. A run whose process died blocks the job for one window.
     */
    async startJobRun(jobName: string, options: StartOptions = {}): Promise<string | null> {
      const minutes = options.windowMinutes ?? 15;
      const runId = await call('start_job_run', {
        p_job_name: jobName,
        p_scope: options.scope ?? {},
        p_window: `${minutes} minutes`,
        p_key: options.key ?? '',
        p_scheduled_for: options.scheduledFor?.toISOString() ?? null,
        p_run_id: options.runId,
      });
      if (runId) beat(runId, minutes);
      return runId;
    },

    /** false: the run was taken over, or has failed. */
    completeJobRun(runId: string, counts: { rows_processed?: number; rows_skipped?: number } = {}): Promise<boolean> {
      stopBeating(runId);
      return call('complete_job_run', {
        p_run_id: runId,
        p_rows_processed: counts.rows_processed ?? 0,
        p_rows_skipped: counts.rows_skipped ?? 0,
      });
    },

    /** false: the run was taken over, or has ended. */
    failJobRun(runId: string, message: string): Promise<boolean> {
      stopBeating(runId);
      // `e.message` is undefined for a thrown text, and JSON would leave the argument out
      return call('fail_job_run', { p_run_id: runId, p_error_message: reason(message) });
    },

    /** The seed's checkpoint; null if it has never run. */
    async getCheckpoint(seedName: string): Promise<Checkpoint | null> {
      return (await call('get_checkpoint', { p_seed_name: seedName }))[0] ?? null;
    },

    /** Moves the cursor and adds to the counters. Write the rows first, with an upsert: a row may be written again. */
    async updateCheckpoint(
      seedName: string, cursor: Json, counts: { rows_inserted?: number; rows_skipped?: number } = {},
    ): Promise<Checkpoint> {
      const [row] = await call('update_checkpoint', {
        p_seed_name: seedName,
        p_last_checkpoint: cursor,
        p_rows_inserted: counts.rows_inserted ?? 0,
        p_rows_skipped: counts.rows_skipped ?? 0,
      });
      return row;
    },
  };
}

export type Pgonce = ReturnType<typeof pgonce>;
