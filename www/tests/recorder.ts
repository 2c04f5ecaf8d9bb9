/**
 * A proxy that keeps all that a browser sends: of the page, its worker and its service worker alike, as none of them
 * can get round it. What should be encrypted is refused, and kept by the name of its server.
 */

import { createServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A request, whole: its line, its headers and its body. */
export interface Sent {
  method: string;
  url: string;
  text: string;
}

export class Recorder {
  readonly sent: Sent[] = [];
  readonly #server: Server = createServer((asked, answer) => void this.#pass(asked, answer));

  static async start(): Promise<Recorder> {
    const recorder = new Recorder();
    recorder.#server.on('connect', ({ url = '' }, socket) => {
      recorder.sent.push({ method: 'CONNECT', url, text: url });
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    });
    await new Promise<void>((resolve) => recorder.#server.listen(0, '127.0.0.1', resolve));
    return recorder;
  }

  /** What a browser needs to go by way of it, even to this machine. */
  get proxy(): { server: string; bypass: string } {
    return { server: `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`, bypass: '<-loopback>' };
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #pass(asked: IncomingMessage, answer: ServerResponse): Promise<void> {
    const { method = '', url = '', rawHeaders, headers } = asked;
    const parts: Buffer[] = [];
    for await (const part of asked) parts.push(part as Buffer);
    const body = Buffer.concat(parts);
    this.sent.push({ method, url, text: `${method} ${url}\n${rawHeaders.join('\n')}\n\n${body.toString('latin1')}` });
    const onward = request(url, { method, headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.rawHeaders);
      response.pipe(answer);
    });
    onward.on('error', () => answer.destroy());
    onward.end(body);
  }
}
