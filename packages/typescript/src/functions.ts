// Generated from src/pgonce/sql/api by tools/typescript_types.py: edit the SQL, then `make generate`.
// The published SQL functions: `Args` is the JSON that a call sends, `Returns` the JSON that PostgREST answers.

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

export interface Functions {
  /** Starts a run of the job and returns its id, which is its token. null = overlap (a skipped row names the running run), or the job is paused (a skipped row has the reason), or the tick p_scheduled_for has fired already (nothing is written). p_window: a run without a heartbeat for this long counts as dead; it is stored with the run. p_key: runs with different keys may run at the same time. p_retries: how many times a failed run is retried, by a worker that has the job. p_backoff: the delay before the first retry; it doubles with every further one. p_process: host:pid of the process that runs it, so that a hanging run can be found. p_run_id: a new uuid of yours as the run's id. If the answer is lost, call again with the same arguments: you get the same run, as long as nobody else has ended it (then PT409). */
  start_job_run: {
    Args: { p_job_name: string; p_scope?: Json; p_window?: string; p_key?: string; p_scheduled_for?: string | null; p_retries?: number; p_backoff?: string; p_process?: string | null; p_run_id?: string | null };
    Returns: string | null;
  };
  /** Sends a heartbeat. true = the run is still yours. As the last statement of a transaction it is the fence: roll back on false, so that a process that lost its run commits nothing. */
  beat_job_run: {
    Args: { p_run_id: string };
    Returns: boolean;
  };
  /** Ends the run as succeeded. true, also when repeated after a lost answer; false = it was taken over or has failed. A count of null leaves the stored one as it is. PT409 = the database has fewer than the p_transactions that were confirmed to the caller: a failover has lost some, and the run has not succeeded. */
  complete_job_run: {
    Args: { p_run_id: string; p_rows_processed?: number; p_rows_skipped?: number; p_transactions?: number };
    Returns: boolean;
  };
  /** Ends the run as failed, with the reason. true, also when repeated after a lost answer; false = it was taken over or has ended. */
  fail_job_run: {
    Args: { p_run_id: string; p_error_message: string };
    Returns: boolean;
  };
  /** Deletes at most p_limit events older than p_older_than, oldest first. Events that are held or still queued are never deleted. Returns the number deleted. 23503 = foreign keys of other tables refer to each of them. Stripe can resend an event for 30 days: keep p_older_than at 31 days or more. */
  purge_webhook_events: {
    Args: { p_older_than?: string; p_limit?: number };
    Returns: number;
  };
  /** Deletes at most p_limit runs older than p_older_than, oldest first. A running run and the last run of a job are never deleted. Returns the number deleted. */
  purge_job_runs: {
    Args: { p_older_than?: string; p_limit?: number };
    Returns: number;
  };
  /** The seed's row, or no row if it has never run. */
  get_checkpoint: {
    Args: { p_seed_name: string };
    Returns: Checkpoint[];
  };
  /** Moves the cursor and adds to the counters. It creates the row if it is new, and starts a complete seed again. Returns the row after the change. Call it in the transaction that writes the rows. */
  update_checkpoint: {
    Args: { p_seed_name: string; p_last_checkpoint: Json; p_rows_inserted?: number; p_rows_skipped?: number };
    Returns: Checkpoint[];
  };
  /** Marks the import as complete and returns its row. 22023 = one of its partitions is not complete. */
  complete_seed: {
    Args: { p_seed_name: string };
    Returns: Checkpoint[];
  };
  /** Marks the import as failed, with the reason, and returns its row; the next run resumes at its checkpoint. A complete import stays complete. */
  fail_seed: {
    Args: { p_seed_name: string; p_error_message: string };
    Returns: Checkpoint[];
  };
  /** Marks the event as handled. Call it inside the transaction that holds the effect: they commit together. false = the event is no longer yours: roll back. A repeated call returns true again, so a lost answer does no harm. */
  complete_webhook: {
    Args: { p_id: string; p_lease: string };
    Returns: boolean;
  };
  /** Ends the attempt as failed. A queued event is tried again with backoff until p_max_attempts; after that it is a dead letter. Any other event is retried by Stripe's next delivery. p_worker and p_took are kept in pgonce_webhook_attempts. false = the event is no longer yours, or a trigger or constraint of yours refuses to have it written; then pgonce_webhook_attempts has both errors. 55P03 = another transaction has held the event for 2 s. */
  fail_webhook: {
    Args: { p_id: string; p_lease: string; p_error_message: string; p_max_attempts?: number; p_worker?: string | null; p_took?: string | null };
    Returns: boolean;
  };
  /** Ends the event as ignored, with the reason. false = the event is no longer yours. p_unhandled: you have no handler for its type, and the reason begins with "no handler": a worker that has one, or will have one within a day, handles it. */
  ignore_webhook: {
    Args: { p_id: string; p_lease: string; p_reason: string; p_unhandled?: boolean };
    Returns: boolean;
  };
  /** Claims an event for the caller, from the body as received. outcome: claimed = yours: finish with complete_webhook, fail_webhook or ignore_webhook and this lease. done = it was handled before. queued = a worker will handle it. busy = another client holds it: let Stripe retry. p_raw: the bytes as received, if p_body is not exactly the same. */
  claim_webhook: {
    Args: { p_stripe_event_id: string; p_event_type: string; p_body: string; p_raw?: string | null; p_lease_for?: string };
    Returns: { outcome: string; id: string; lease: string; attempts: number }[];
  };
  /** Returns one row if the caller now owns the event: it is new, it has failed, or its lease has expired. Returns no row if the event is done or queued for a worker: answer 200. PT409 (HTTP 409) while another client holds it: answer with an error, so that Stripe retries. */
  insert_webhook_if_new: {
    Args: { p_stripe_event_id: string; p_event_type: string; p_payload: Json };
    Returns: { id: string }[];
  };
  /** insert_webhook_if_new for the raw request body. It also accepts a body that jsonb cannot hold; over PostgREST such a JSON argument fails before the function is called. Verify the signature first. The id and the type are read from the body unless they are given. */
  receive_webhook: {
    Args: { p_body: string; p_stripe_event_id?: string | null; p_event_type?: string | null };
    Returns: { id: string }[];
  };
}
