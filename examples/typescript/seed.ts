// The specification's resumable seed, unchanged. The rows travel in a request of their own, so the checkpoint comes
// after them and a killed run repeats the last chapter: write it with an upsert. (`pgonce seed run` needs no such care:
// it commits rows and checkpoint together.)
import type { Pgonce } from 'pgonce';

export interface Chapter {
  book: string;
  chapter: number;
}

export async function seedWebKjv(
  { getCheckpoint, updateCheckpoint }: Pgonce,
  chaptersAfter: (book: string, chapter: number) => AsyncIterable<Chapter> | Iterable<Chapter>,
  write: (chapter: Chapter) => Promise<void>,
): Promise<void> {
  const checkpoint = await getCheckpoint('web_kjv_chapters');
  const startBook  = checkpoint?.last_checkpoint?.last_book ?? 'GEN';
  const startChap  = checkpoint?.last_checkpoint?.last_chapter ?? 0;
  for await (const each of chaptersAfter(startBook, startChap)) {
    await write(each);
    const { book, chapter } = each;
    await updateCheckpoint('web_kjv_chapters', { last_book: book, last_chapter: chapter });
  }
}
