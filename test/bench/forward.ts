/** `cdebug port-forward` against two socats with a UNIX socket between them, one of them in the target's network. */

import { ORDINARY } from "../e2e/engine.ts";
import { FORWARDER, inNetwork, runClients, serve, startForward } from "../e2e/forward.ts";
import { startDocker } from "../engines/docker.ts";
import { importForwarder, importOrdinary } from "../engines/images.ts";
import { temporaryDirectory } from "../temporary.ts";
import { compare, type Medians, ms, print, seconds } from "./measure.ts";

const MEBIBYTES = 256;

/** Each way, and how many short requests make one measurement. */
const WAYS = { relay: 100, direct: 100, chain: 100, stream: 5, reverse: 100, "reverse by stream": 5 };

/** Prints two lines for each way: throughput, and one short request. */
export async function benchForward(pairs: number): Promise<void> {
  await using engine = await startDocker();
  await importForwarder(engine.client, FORWARDER);
  await importOrdinary(engine.client, ORDINARY);
  await engine.client(["run", "-d", "--name", "web", ORDINARY, "sleep", "1000000"]);
  const pid = Number((await engine.client(["inspect", "--format", "{{.State.Pid}}", "web"])).trim());
  await using directory = await temporaryDirectory();
  const env = { DOCKER_HOST: engine.host };
  for (const [way, requests] of Object.entries(WAYS)) {
    const reverse = way.startsWith("reverse");
    const via = way.endsWith("stream") ? "stream" : reverse ? "relay" : way;
    /** Where the servers are, and where the clients. */
    const [there, here] = reverse ? [undefined, pid] : [pid, undefined];
    const bulk = `EXEC:head -c ${MEBIBYTES * 1024 * 1024} /dev/zero`;
    const block = ["-b", "262144"];
    await using _bulk = await serve("TCP4-LISTEN:7001,fork,reuseaddr", bulk, there, block);
    await using _echo = await serve("TCP4-LISTEN:7002,fork,reuseaddr,backlog=1024", "EXEC:cat", there);
    await using session = await startForward(
      { ref: "docker://web", flags: ["--forwarder-image", FORWARDER] },
      reverse ? ["-R", "9001:7001", "-R", "9002:7002"] : ["-L", "7001", "-L", "7002"],
      { env, extra: ["--via", via] },
    );
    const ours = reverse ? ["127.0.0.1:9001", "127.0.0.1:9002"] : session.endpoints;
    await using bare = new AsyncDisposableStack();
    for (const port of [7001, 7002]) {
      const path = `${directory.path}/${way}-${port}`;
      const chain = [
        [`UNIX-LISTEN:${path},fork,backlog=1024`, `TCP4:127.0.0.1:${port},nodelay`, there],
        [`TCP4-LISTEN:${port + 1000},fork,reuseaddr,backlog=1024,nodelay`, `UNIX-CONNECT:${path}`, here],
      ] as const;
      for (const [from, to, where] of chain) bare.use(await serve(from, to, where, block));
    }
    const inside = reverse ? inNetwork(pid) : [];
    const bulkTime = (endpoint: string) =>
      seconds([...inside, "socat", "-u", ...block, `TCP4:${endpoint}`, "OPEN:/dev/null"]);
    const requestTime = async (endpoint: string) =>
      (await runClients(endpoint, "in-turn", requests, inside)).seconds / requests;
    const throughput = await compare(
      Math.ceil(pairs / 4),
      () => bulkTime(ours[0]!),
      () => bulkTime("127.0.0.1:8001"),
    );
    print(
      `port-forward, ${way}, throughput: ${ratio(throughput.bare, throughput.ours)} × socat alone (${
        rate(throughput.ours)
      } to ${rate(throughput.bare)})`,
    );
    const request = await compare(
      Math.ceil(pairs / 4),
      () => requestTime(ours[1]!),
      () => requestTime("127.0.0.1:8002"),
    );
    print(
      `port-forward, ${way}, a short request: ${ratio(request.ours, request.bare)} × socat alone (${
        ms(request.ours)
      } to ${ms(request.bare)})`,
    );
  }
}

const ratio = (a: Medians["ours"], b: Medians["bare"]) => (a / b).toFixed(2);

function rate(seconds: number): string {
  return `${(MEBIBYTES / seconds).toFixed(0)} MiB/s`;
}
