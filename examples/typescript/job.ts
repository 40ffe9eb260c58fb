// The specification's overlap guard, unchanged. It wants "useUnknownInCatchVariables": false, or `catch (e: any)`.
import type { Pgonce } from 'pgonce';

export function portraitRegen(
  { startJobRun, completeJobRun, failJobRun }: Pgonce,
  doWork: () => Promise<number>,
) {
  return async function (): Promise<void> {
    const runId = await startJobRun('portrait_regen');   // inserts row, checks for existing 'running' row
    if (!runId) return;                                   // overlap detected — abort
    try {
      const count = await doWork();
      await completeJobRun(runId, { rows_processed: count });
    } catch (e) {
      await failJobRun(runId, e.message);
    }
  };
}
