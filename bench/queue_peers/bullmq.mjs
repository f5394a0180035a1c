// The node half of bullmq_peer.py: node bullmq.mjs MODULES put | work SLOTS
import { createRequire } from "node:module";
import { appendFileSync } from "node:fs";
import { createInterface } from "node:readline";

const [modules, what, slots] = process.argv.slice(2);
const { Queue, Worker } = createRequire(`${modules}/`)("bullmq");
const address = new URL(process.env.BENCH_URL);
const connection = { host: address.hostname, port: Number(address.port), maxRetriesPerRequest: null };
const monotonic = () => Number(process.hrtime.bigint()) / 1e9;
const options = { attempts: 3 };

if (what === "put") {
  const queue = new Queue("bench", { connection });
  await queue.waitUntilReady();
  for await (const line of createInterface({ input: process.stdin })) {
    const { how, jobs } = JSON.parse(line);
    const began = monotonic();
    if (how === "many") {
      await queue.addBulk(jobs.map((data) => ({ name: "run", data, opts: { ...options, priority: 10 } })));
    } else {
      for (const data of jobs) await queue.add("run", data, { ...options, priority: how === "first" ? 1 : 10 });
    }
    process.stdout.write(`${how === "one" || how === "first" ? began : monotonic() - began}\n`);
  }
} else {
  const mark = (kind, job) =>
    appendFileSync(process.env.BENCH_MARKS, `${kind} ${job.number} ${monotonic().toFixed(6)} ${process.env.BENCH_WORKER}\n`);
  const run = async ({ data }) => {
    mark("S", data);
    if (data.blocks) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, data.milliseconds);
    else if (data.milliseconds) await new Promise((done) => setTimeout(done, data.milliseconds));
    mark("E", data);
  };
  new Worker("bench", run, { connection, concurrency: Number(slots), lockDuration: 10000, stalledInterval: 3000 });
}
