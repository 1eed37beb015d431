/** Connections: where they are taken, where they go, and two of them joined into one. */

import { createSocket, type Socket as DatagramSocket } from "node:dgram";
import { connect as connectSocket, createServer, type Server, type Socket } from "node:net";
import { letGo } from "./chunk.ts";
import type { Running, Streams } from "./driver.ts";
import { CdebugError, reason } from "./errors.ts";
import type { Endpoint } from "./plan.ts";
import { holderOf } from "./ports.ts";

/** One end of a connection. */
export interface Duplex {
  /** What comes next, to be used before the next call; null at the end. Throws if the connection broke. */
  read(): Promise<Uint8Array | null>;
  /** Resolves when the chunk has been taken: the way that back-pressure travels. */
  write(chunk: Uint8Array): Promise<void>;
  /** Ends this direction; the other one goes on. */
  closeWrite(): Promise<void>;
  /** Ends both at once; where the transport can, the other side learns that it broke. */
  reset(): void;
  close(): void;
}

/** How a connection went, in bytes. */
export interface Traffic {
  /** From the one who has connected. */
  sent: number;
  received: number;
}

/** One side has gone in the middle; why, who carried it may know. */
class Broken extends Error {}

/** Joins two ends until both directions have ended, and counts. Throws if it broke; both ends know then. */
export async function join(client: Duplex, server: Duplex, traffic: Traffic): Promise<void> {
  const pump = async (from: Duplex, to: Duplex, count: (bytes: number) => void) => {
    for (let chunk; (chunk = await from.read()) !== null;) {
      await to.write(chunk);
      count(chunk.length);
    }
    await to.closeWrite();
  };
  const failures: unknown[] = [];
  const failed = (error: unknown) => {
    // What is broken here breaks the other direction, too.
    failures.push(error);
    client.reset();
    server.reset();
    throw error;
  };
  const up = pump(client, server, (bytes) => traffic.sent += bytes).catch(failed);
  const down = pump(server, client, (bytes) => traffic.received += bytes).catch(failed);
  await Promise.allSettled([up, down]);
  if (failures.length > 0) throw failures[0];
  client.close();
  server.close();
}

/** A short connection needs no large buffer, a fast one does: socat's own with its option -b. */
const FIRST_BUFFER = 16 * 1024;
const LARGEST_BUFFER = 256 * 1024;

/** How long a process takes between its last two words to a connection. */
const PARTING_MS = 20;

/**
 * A UNIX socket of the runtime's own: reading into one buffer, it is as fast as socat. A peer that has closed its
 * writing half can be told from one that is gone: to the latter even nothing cannot be written.
 * Source: unix_release_sock() and unix_stream_sendmsg() of linux/net/unix/af_unix.c.
 */
export function fromConn(conn: Deno.Conn): Duplex {
  let buffer = new Uint8Array(FIRST_BUFFER);
  let full = 0;
  let writing = true;
  let silent = true;
  const close = () => {
    try {
      conn.close();
    } catch {
      // It has been.
    }
  };
  return {
    async read() {
      if (full > 1 && buffer.length < LARGEST_BUFFER) buffer = new Uint8Array(LARGEST_BUFFER);
      const count = await conn.read(buffer);
      if (count === null) {
        if (writing && await conn.write(new Uint8Array()).then(() => false, () => true)) {
          throw new Broken("the other side has gone");
        }
        // Who has not taken what it was sent, and goes, ends its half first: an error comes a moment later.
        if (!writing && silent) {
          await new Promise((resolve) => setTimeout(resolve, PARTING_MS));
          await conn.read(buffer);
        }
        return null;
      }
      silent = false;
      full = count === buffer.length ? full + 1 : 0;
      return buffer.subarray(0, count);
    },
    async write(chunk) {
      for (let done = 0; done < chunk.length;) done += await conn.write(chunk.subarray(done));
    },
    async closeWrite() {
      writing = false;
      await conn.closeWrite().catch(() => {}); // gone, which its reader tells
    },
    reset: close,
    close,
  };
}

/** A socket of node's, which can tell the other side that the connection broke: the runtime's own cannot. */
export function fromSocket(socket: Socket): Duplex {
  const arrived: Uint8Array<ArrayBuffer>[] = [];
  let last: Uint8Array<ArrayBuffer> | undefined;
  let ended = false;
  let failure: Error | undefined;
  let wake = () => {};
  socket.pause();
  socket.on("data", (chunk: Uint8Array<ArrayBuffer>) => {
    arrived.push(chunk);
    socket.pause();
    wake();
  });
  socket.on("end", () => {
    ended = true;
    wake();
  });
  socket.on("error", (error: Error) => {
    failure ??= error;
    wake();
  });
  socket.on("close", () => {
    if (!ended) failure ??= new Broken("the connection is closed");
    wake();
  });
  return {
    async read() {
      if (last !== undefined) letGo(last);
      last = undefined;
      for (;;) {
        last = arrived.shift();
        if (last !== undefined) return last;
        if (failure) throw failure;
        if (ended) return null;
        await new Promise<void>((resolve) => {
          wake = resolve;
          socket.resume();
        });
      }
    },
    write: (chunk) =>
      new Promise((resolve, reject) => {
        if (failure) reject(failure);
        else socket.write(chunk, (error) => error ? reject(error) : resolve());
      }),
    closeWrite: () =>
      new Promise((resolve) => {
        if (socket.destroyed) resolve();
        else socket.end(() => resolve());
      }),
    reset() {
      if (!socket.destroyed) socket.resetAndDestroy();
    },
    close: () => socket.destroy(),
  };
}

/** The most bytes of a block, whose length is in two bytes. */
const LARGEST_BLOCK = 65535;

/**
 * A connection whose halves end one by one, over a stream that only ends as a whole: blocks, each behind its length
 * in two bytes, the higher first, and an empty one at the end of each direction. One more byte behind an odd block
 * makes it even: Podman takes a single byte 16 for the begin of a detach sequence, and what follows it becomes a packet
 * of which conmon drops the end. Source: CopyDetachable() of Podman 4, CONN_SOCK_BUF_SIZE of conmon 2.1.
 */
export function inBlocks(stream: Duplex): Duplex {
  let chunk: Uint8Array = new Uint8Array();
  /** What is still to come of this block; unknown before its length. */
  let left: number | undefined;
  let odd = false;
  let ended = false;
  let room = new Uint8Array();
  const next = async (): Promise<void> => {
    while (chunk.length === 0) {
      const got = await stream.read();
      if (got === null) throw new Broken("the other side has gone");
      chunk = got;
    }
  };
  const take = (count: number): Uint8Array => {
    const taken = chunk.subarray(0, count);
    chunk = chunk.subarray(count);
    return taken;
  };
  const byte = async (): Promise<number> => {
    await next();
    return take(1)[0]!;
  };
  return {
    async read() {
      if (ended) return null;
      if (left === undefined) {
        if (odd) await byte();
        left = await byte() << 8 | await byte();
        odd = left % 2 === 1;
      }
      if (left === 0) {
        ended = true;
        return null;
      }
      await next();
      const taken = take(left);
      left -= taken.length;
      if (left === 0) left = undefined;
      return taken;
    },
    async write(whole) {
      for (let at = 0; at < whole.length; at += LARGEST_BLOCK) {
        const bytes = whole.subarray(at, at + LARGEST_BLOCK);
        const size = 2 + bytes.length + bytes.length % 2;
        // One for all: a new one each time waits for a collection.
        if (room.length < size) room = new Uint8Array(size);
        prefix(bytes, room);
        await stream.write(room.subarray(0, size));
      }
    },
    closeWrite: () => stream.write(new Uint8Array(2)),
    reset: () => stream.reset(),
    close: () => stream.close(),
  };
}

/** Puts bytes behind their number into a room. */
function prefix(bytes: Uint8Array, room: Uint8Array): Uint8Array {
  room.set([bytes.length >>> 8, bytes.length & 0xff]);
  room.set(bytes, 2);
  return room;
}

/** A process that carries one connection over its stdin and stdout, in blocks. */
export async function fromProcess(start: (streams: Streams) => Promise<Running>): Promise<Duplex> {
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  let pulled = Promise.withResolvers<void>();
  let open = true;
  const stdin = new ReadableStream<Uint8Array>({
    pull(own) {
      controller = own;
      pulled.resolve();
      // Wanted again only when this chunk is there.
      return new Promise<void>((resolve) => given = resolve);
    },
    cancel() {
      open = false;
      pulled.reject(new Broken("the process has ended"));
      pulled.promise.catch(() => {});
    },
  }, { highWaterMark: 0 });
  let given = () => {};

  let waiting: { chunk: Uint8Array; taken: () => void } | undefined;
  let previous = () => {};
  let released = false;
  let arrived = Promise.withResolvers<void>();
  let complaint = "";
  const running = await start({
    stdin,
    stdout: (chunk) =>
      new Promise<void>((taken) => {
        if (released) return taken();
        waiting = { chunk, taken };
        arrived.resolve();
      }),
    stderr: (chunk) => Promise.resolve(void (complaint += new TextDecoder().decode(chunk))),
  });
  let exit: number | undefined;
  const over = running.exit.then((code) => exit = code, () => exit = -1).then(() => arrived.resolve());
  const release = () => {
    open = false;
    released = true;
    previous();
    waiting?.taken();
    running.release();
    over.catch(() => {});
  };
  return inBlocks({
    async read() {
      previous();
      previous = () => {};
      for (;;) {
        if (waiting !== undefined) {
          const { chunk, taken } = waiting;
          waiting = undefined;
          previous = taken;
          return chunk;
        }
        if (exit !== undefined) {
          if (exit !== 0) throw new Broken(complaint.trim() || `the process ended with exit code ${exit}`);
          return null;
        }
        arrived = Promise.withResolvers();
        await arrived.promise;
      }
    },
    async write(chunk) {
      await pulled.promise;
      pulled = Promise.withResolvers();
      controller.enqueue(chunk);
      given();
      // The next is wanted when this one has been written: until then the chunk is in use.
      await Promise.race([pulled.promise, over]);
    },
    closeWrite() {
      if (!open) return Promise.resolve();
      open = false;
      const close = () => {
        try {
          controller?.close();
          given();
        } catch {
          // It has been cancelled.
        }
      };
      if (controller) close();
      else pulled.promise.then(close, () => {});
      return Promise.resolve();
    },
    reset: release,
    close: release,
  });
}

/** Connects to an endpoint of this machine. Throws the system's error. */
export async function connectTo(endpoint: Endpoint): Promise<Duplex> {
  const socket = connectSocket({
    ...("path" in endpoint ? { path: endpoint.path } : endpoint),
    allowHalfOpen: true,
    noDelay: true,
  });
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", reject);
  });
  return fromSocket(socket);
}

/** Connects to a UNIX socket that is just being made, or whose listener has no room at the moment. */
export async function connectSoon(path: string, signal: AbortSignal): Promise<Duplex> {
  for (let attempt = 0;; attempt++) {
    try {
      return fromConn(await Deno.connect({ transport: "unix", path }));
    } catch (error) {
      // EAGAIN: its backlog is full. Source: unix(7).
      if (signal.aborted || attempt >= 200 || !/os error (11|111|2)\b/.test(reason(error))) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10 + attempt));
    }
  }
}

/** Where connections are taken on this machine. */
export interface Listener {
  /** With the port that it has got. */
  readonly endpoint: Endpoint;
  close(): void;
}

/**
 * Listens, and calls back for each connection with who it is. Throws CdebugError where it cannot: the port is in
 * use, privileged, or the address is not this machine's.
 */
export async function listen(
  endpoint: Endpoint,
  taken: (connection: Duplex, peer: string) => void,
): Promise<Listener> {
  const server: Server = createServer(
    { allowHalfOpen: true, pauseOnConnect: true, noDelay: true },
    (socket) =>
      taken(
        fromSocket(socket),
        socket.remoteAddress === undefined ? "" : `${socket.remoteAddress}:${socket.remotePort}`,
      ),
  );
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(
        { ...("path" in endpoint ? { path: endpoint.path } : endpoint), backlog: 4096 },
        () => resolve(),
      );
    });
  } catch (error) {
    throw await cannotListen(endpoint, "tcp", error);
  }
  server.on("error", () => {}); // a connection that could not be taken is its client's to notice
  const address = server.address();
  return {
    endpoint: "host" in endpoint && address && typeof address === "object"
      ? { host: endpoint.host, port: address.port }
      : endpoint,
    close: () => server.close(),
  };
}

/** Why nobody can listen there, and what helps. */
async function cannotListen(
  endpoint: Endpoint,
  protocol: "tcp" | "udp",
  error: unknown,
): Promise<CdebugError> {
  const code = (error as { code?: string }).code ?? reason(error);
  const failure = (shown: string, why: string, hint?: string) =>
    new CdebugError(`Cannot listen on ${shown}: ${why}`, { ...hint !== undefined && { hint }, cause: error });
  if ("path" in endpoint) {
    const { isSocket = false } = await Deno.lstat(endpoint.path).catch(() => ({ isSocket: false }));
    return code === "EADDRINUSE"
      ? failure(
        endpoint.path,
        "it is there already",
        isSocket ? `rm ${endpoint.path}, if nobody uses it` : "another path",
      )
      : failure(endpoint.path, reason(error));
  }
  const shown = `${endpoint.host}:${endpoint.port}`;
  switch (code) {
    case "EADDRINUSE": {
      const holder = await holderOf(endpoint.port, protocol);
      return failure(
        shown,
        `the port is in use${holder ? ` by ${holder}` : ""}`,
        "another LOCAL_PORT, or none for any that is free",
      );
    }
    case "EACCES":
      return failure(
        shown,
        `ports below 1024 take root`,
        `another LOCAL_PORT, such as ${8000 + endpoint.port}; or sudo`,
      );
    case "EINVAL":
    case "EADDRNOTAVAIL":
      return failure(
        shown,
        "the address is not this machine's",
        "ip address  lists those that are; 0.0.0.0 is all",
      );
    default:
      return failure(shown, reason(error));
  }
}

/** Sessions of datagrams end when nothing has come for so long. */
const IDLE_MS = 60_000;

/** A stream that carries datagrams, each behind its length in two bytes, the higher first. */
interface Framed {
  send(datagram: Uint8Array): void;
  close(): void;
}

/** Carries datagrams over a stream until it ends, or none has come for a minute. */
function frame(
  stream: Duplex,
  received: (datagram: Uint8Array) => void,
  traffic: Traffic,
  ended: (error?: unknown) => void,
): Framed {
  let timer: ReturnType<typeof setTimeout>;
  let closed = false;
  let pending = 0;
  let sending = Promise.resolve();
  const close = (error?: unknown) => {
    if (closed) return;
    closed = true;
    clearTimeout(timer);
    stream.reset();
    ended(error);
  };
  const touch = () => {
    clearTimeout(timer);
    if (!closed) timer = setTimeout(() => close(), IDLE_MS);
  };
  touch();
  (async () => {
    let rest = new Uint8Array();
    for (let chunk; (chunk = await stream.read()) !== null;) {
      touch();
      const bytes = new Uint8Array(rest.length + chunk.length);
      bytes.set(rest);
      bytes.set(chunk, rest.length);
      let at = 0;
      for (
        let size;
        bytes.length - at >= 2 && bytes.length - at - 2 >= (size = bytes[at]! << 8 | bytes[at + 1]!);
      ) {
        received(bytes.slice(at + 2, at + 2 + size));
        traffic.received += size;
        at += 2 + size;
      }
      rest = bytes.slice(at);
    }
  })().then(() => close(), close);
  return {
    send(datagram) {
      // What cannot be taken is lost, as datagrams are.
      if (closed || pending > 64) return;
      touch();
      pending++;
      const framed = prefix(datagram, new Uint8Array(2 + datagram.length));
      sending = sending.then(() => stream.write(framed)).then(() => {
        pending--;
        traffic.sent += datagram.length;
      }).catch(close);
    },
    close: () => close(),
  };
}

/**
 * Listens for datagrams; each sender has a stream of its own, opened by `open`. `opened` and `closed` are told of
 * each. Throws CdebugError where it cannot listen.
 */
export async function listenForDatagrams(
  endpoint: { readonly host: string; readonly port: number },
  open: () => Promise<Duplex>,
  events: {
    opened(peer: string): void;
    closed(peer: string, traffic: Traffic, error?: unknown): void;
  },
): Promise<Listener & { reset(): void }> {
  const socket: DatagramSocket = createSocket(endpoint.host.includes(":") ? "udp6" : "udp4");
  const sessions = new Map<string, Promise<Framed>>();
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind(endpoint.port, endpoint.host, () => resolve());
    });
  } catch (error) {
    throw await cannotListen(endpoint, "udp", error);
  }
  socket.on("error", () => {}); // the sender of one datagram may be gone
  socket.on("message", (datagram: Uint8Array, { address, port }) => {
    const peer = `${address}:${port}`;
    let session = sessions.get(peer);
    if (session === undefined) {
      const traffic: Traffic = { sent: 0, received: 0 };
      const ended = (error?: unknown) => {
        if (sessions.delete(peer)) events.closed(peer, traffic, error);
      };
      events.opened(peer);
      session = open().then((stream) =>
        frame(stream, (answer) => socket.send(answer, port, address), traffic, ended)
      );
      sessions.set(peer, session);
      session.catch(ended);
    }
    session.then(({ send }) => send(datagram), () => {});
  });
  const reset = () => {
    for (const session of sessions.values()) session.then(({ close }) => close(), () => {});
    sessions.clear();
  };
  return {
    endpoint: { host: endpoint.host, port: socket.address().port },
    reset,
    close() {
      reset();
      socket.close();
    },
  };
}

/** Joins a stream of datagrams to an address of this machine's, until it ends or is idle. */
export async function joinDatagrams(
  stream: Duplex,
  { host, port }: { readonly host: string; readonly port: number },
  traffic: Traffic,
): Promise<void> {
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.connect(port, host, () => resolve());
    });
    await new Promise<void>((resolve, reject) => {
      const carried = frame(
        stream,
        (datagram) => datagram.length <= LARGEST_BLOCK && socket.send(datagram),
        traffic,
        (error) => error === undefined ? resolve() : reject(error),
      );
      socket.on("message", (datagram: Uint8Array) => carried.send(datagram));
      socket.on("error", () => {}); // nobody listens there at the moment
    });
  } finally {
    socket.close();
  }
}
