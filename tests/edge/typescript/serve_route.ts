// Serves the Next.js route on a free port of 127.0.0.1, and prints the port: `node out/serve_route.js`.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import ws from 'ws';

(globalThis as any).WebSocket ??= ws; // Node before 22 has none, and supabase-js asks for it

const { POST } = await import('./route.ts');

const server = createServer(async (incoming, outgoing) => {
  const parts: Buffer[] = [];
  for await (const part of incoming) parts.push(part);
  const headers = incoming.headers as Record<string, string>;
  const answer = await POST(new Request('http://localhost/api/webhooks/stripe', {
    method: 'POST', headers, body: Buffer.concat(parts),
  }));
  outgoing.writeHead(answer.status).end(await answer.text());
});
server.listen(0, '127.0.0.1', () => console.log(`Listening on http://127.0.0.1:${(server.address() as AddressInfo).port}/`));
