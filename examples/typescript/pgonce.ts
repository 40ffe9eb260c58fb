// pgonce over supabase-js: what the specification's three usage patterns need besides createClient. Copy it into your
// project. Every function here calls the SQL function of the same name and adds nothing to its promise.
import type { SupabaseClient } from '@supabase/supabase-js';

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json | undefined };

/** A row of seed_checkpoints. */
export interface Checkpoint {
  seed_name: string;
  last_checkpoint: any;
  rows_inserted: number;
  rows_skipped: number;
  status: 'in_progress' | 'complete' | 'failed';
  error_message: string | null;
}

export interface StartOptions {
  /** What the run works on, for people to read. */
  scope?: { [key: string]: Json };
  /** Minutes without a heartbeat after which the run counts as dead. */
  windowMinutes?: number;
  /** Runs with different keys may run side by side. */
  key?: string;
  /** The tick this run is for; it fires once, on whatever machine. */
  scheduledFor?: Date;
}

export function pgonce(client: SupabaseClient) {
  // supabase-js answers with { data, error } and never throws. Here a refusal is thrown (its `code` is the SQLSTATE:
  // PT409, 22023, ...), because a route that overlooks it would answer 200, and Stripe would never send the event again.
  async function rpc(name: string, args: { [key: string]: unknown } = {}) {
    const { data } = await client.rpc(name, args).throwOnError();
    return { data, rows: Array.isArray(data) ? data : [data] };
  }

  async function call(name: string, args: { [key: string]: unknown }): Promise<any> {
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
    const timer = setInterval(beatOnce, (minutes * 60_000) / 3);
    (timer as { unref?: () => void }).unref?.(); // Node: a timer alone keeps no process alive
    beating.set(runId, timer);
  }

  return {
    /** The two methods that the patterns use: `rpc` answers with `rows`, and throws; `from` is supabase-js's own. */
    supabase: { rpc, from: (table: string) => client.from(table) },

    /**
     * The run's id, or null on overlap, or when its tick has fired. Until it is completed or failed a heartbeat is sent
     * every third of the window: a long run is never overlapped, and one whose process died is free after a window.
     */
    async startJobRun(jobName: string, options: StartOptions = {}): Promise<string | null> {
      const minutes = options.windowMinutes ?? 15;
      const runId: string | null = await call('start_job_run', {
        p_job_name: jobName,
        p_scope: options.scope ?? {},
        p_window: `${minutes} minutes`,
        p_key: options.key ?? '',
        p_scheduled_for: options.scheduledFor?.toISOString() ?? null,
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
      return call('fail_job_run', { p_run_id: runId, p_error_message: message });
    },

    /** Where the seed stands; null when it has never run. */
    async getCheckpoint(seedName: string): Promise<Checkpoint | null> {
      return (await rpc('get_checkpoint', { p_seed_name: seedName })).rows[0] ?? null;
    },

    /** Moves the cursor and adds to the counters. Write the rows first, with an upsert: they may come again. */
    async updateCheckpoint(
      seedName: string, cursor: Json, counts: { rows_inserted?: number; rows_skipped?: number } = {},
    ): Promise<Checkpoint> {
      const { rows } = await rpc('update_checkpoint', {
        p_seed_name: seedName,
        p_last_checkpoint: cursor,
        p_rows_inserted: counts.rows_inserted ?? 0,
        p_rows_skipped: counts.rows_skipped ?? 0,
      });
      return rows[0];
    },
  };
}

export type Pgonce = ReturnType<typeof pgonce>;
