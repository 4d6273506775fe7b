// Calls at random: each with what it is to have done to the streams of the caches that it touches.
import { between, floats, pick } from "../random.mjs";
import { cutUp } from "./cutUp.mjs";
import { Stream, setTo } from "./streams.mjs";

/** Around chunks (48 tokens), and long enough for several tiles. */
const seqLens = [0, 1, 1, 2, 3, 5, 8, 17, 47, 48, 49, 95, 96, 97, 150, 291];
const longSeqLens = [700, 2500];

/**
 * A call that has been thought out and not yet made.
 * @typedef {object} Call
 * @property {string} what it is, in words
 * @property {Stream[]} touches what no other call may change meanwhile
 * @property {() => Promise<unknown>} run
 * @property {(error: Error) => void} [refused] is told of an error from the list
 * @property {(result: unknown) => void} check
 */

/** One network on every engine, and some of the caches that calls have left. */
export class World {
  refusals = 0;
  /** Codes of what a cache on the GPU may be refused for: none, while nothing is wrong with the GPU. */
  excuses = [];
  /** Given to the forwards and streams that are thought out from now on: what stops them. */
  signal;
  #caches = [];

  /**
   * @param engines by name
   * @param models of the network: each engine's, by its name
   * @param oracles of the network: see {@link Stream}
   */
  constructor(next, { spec, whole }, engines, models, oracles, judge) {
    this.next = next;
    this.engines = engines;
    this.models = models;
    this.oracles = oracles;
    this.judge = judge;
    this.pools = (spec?.pooling ?? "none") !== "none";
    this.whole = whole;
    this.windows = spec?.intermediatePooling?.some((mode) => mode !== "none") ?? false;
    const [model] = Object.values(models);
    this.vocabulary = model.vocabulary;
    this.inputWidth = model.inputWidth;
    this.outputWidth = model.outputWidth;
  }

  /** @returns {Call} */
  call() {
    if (this.whole) return this.rows();
    const kinds = ["step", "step", "forward", "forward", "stream", "move", "change"];
    return this[pick(this.next, this.models.webgpu ? [...kinds, "resident"] : kinds)]();
  }

  /** step, stepSync or stepMany, of all streams of a cache or of some. */
  step() {
    const { next, models } = this;
    const { where, cache, streams } = this.#some();
    const rows = next() < 0.4 ? this.#rowsOf(streams) : undefined;
    const own = rows ? Array.from(rows, (row) => streams[row]) : streams;
    const verb = pick(next, ["stepSync", "step", "stepMany"]);
    const steps = verb === "stepMany" ? pick(next, [0, 1, 2, 7, 60]) : 1;
    const [x, marks] = this.#tokens(steps * own.length, 0.05);
    const out = next() < 0.2 ? this.#out(where, steps * own.length) : undefined;
    const what = `${verb} of ${steps} x ${own.length} of ${streams.length} on ${where} (${Object.keys(marks)})`;
    return {
      what,
      touches: streams,
      run: async () => models[where][verb](x, cache, { rows, out, ...marks }),
      refused: (error) => this.#refused(what, error, { cache, streams }),
      check: (y) => {
        for (let i = 0; i < steps * own.length; i++) {
          const stream = own[i % own.length];
          this.#compare(what, where, y, i, stream, this.#read(where, stream, x, i, marks));
        }
        this.judge.cache(what, cache, streams);
      },
    };
  }

  /** forward, of rows from nothing or from a cache. */
  forward() {
    const { next, models, pools } = this;
    const from = next() < 0.3 ? undefined : this.#some();
    const where = from?.where ?? this.#somewhere();
    const batch = from?.streams.length ?? between(next, 1, 4);
    const streams = from?.streams.map((stream) => stream.clone()) ?? this.#fresh(batch);
    const seqLen = pick(next, next() < 0.1 && where !== "webgpu" ? longSeqLens : seqLens);
    const ragged = next() < 0.3;
    const length = () => pick(next, [0, seqLen, between(next, 0, seqLen), between(next, 0, seqLen)]);
    const lengths = streams.map(() => (ragged ? length() : seqLen));
    const every = !pools && next() < 0.4 ? between(next, 2, 7) : 1;
    const [x, marks] = this.#tokens(batch * seqLen, 3 / (seqLen + 1), where);
    const most = Math.max(...streams.map(({ tokens }) => Math.floor(((tokens % every) + seqLen) / every)));
    const outputs = pools ? 1 : most;
    const out = next() < 0.2 ? this.#out(where, batch * outputs) : undefined;
    const { signal } = this;
    const options = { batch, state: from?.cache, every, ...(ragged && { lengths }), out, signal, ...marks };
    const used = Object.keys(options).filter((name) => options[name] !== undefined);
    const what = `forward of ${batch} x ${seqLen} [${lengths}] on ${where} (${used}, every ${every})`;
    return {
      what,
      touches: from?.streams ?? [],
      run: () => models[where].forward(x, options),
      refused: (error) => this.#refused(what, error, from, stopped(signal)),
      check: ({ y, state }) => {
        if (from) this.judge.cache(`${what}, where it started`, from.cache, from.streams);
        if (y.length !== batch * outputs * this.outputWidth || (out && y !== out))
          this.judge.wrong.push(`${what}: y has ${y.length} values`);
        for (const [row, stream] of streams.entries()) {
          const said = `${what}, row ${row}`;
          let [at, last] = [row * outputs, undefined];
          for (let i = row * seqLen; i < row * seqLen + lengths[row]; i++) {
            last = this.#read(where, stream, x, i, marks);
            if (!pools && stream.tokens % every === 0) this.#compare(said, where, y, at++, stream, last);
          }
          // What is made of a row that ends within a window no step says: it is filled up.
          const isWhole = !this.windows || lengths[row] === seqLen;
          if (pools && last && isWhole) this.#compare(said, where, y, at, stream, last);
          const rest = y.subarray(at * this.outputWidth, (row + 1) * outputs * this.outputWidth);
          if (!pools && rest.some((value) => !Object.is(value, 0)))
            this.judge.wrong.push(`${said} does not end in zeros`);
        }
        this.judge.cache(`${what}, its state`, state, streams);
        this.#keep(where, state, streams);
      },
    };
  }

  /** forward of what cannot step: each row is what it is alone. */
  rows() {
    const { next, models, outputWidth } = this;
    const where = this.#somewhere();
    const [batch, seqLen] = [between(next, 1, 4), pick(next, seqLens)];
    const lengths = Array.from({ length: batch }, () => between(next, 0, seqLen));
    const [x, marks] = this.#tokens(batch * seqLen, 3 / (seqLen + 1), where);
    const out = next() < 0.2 ? this.#out(where, batch * seqLen) : undefined;
    const what = `forward of ${batch} x ${seqLen} [${lengths}] on ${where} (${Object.keys(marks)})`;
    const { signal } = this;
    return {
      what,
      touches: [],
      refused: (error) => this.#refused(what, error, undefined, stopped(signal)),
      run: async () => {
        const { y } = await models[where].forward(x, { batch, lengths, out, signal, ...marks });
        const alone = lengths.map((length, row) => {
          const cut = (values, width = 1) =>
            values?.slice(row * seqLen * width, (row * seqLen + length) * width);
          const [integrationTimesteps, reset] = [marks.integrationTimesteps, marks.reset].map((m) => cut(m));
          const options = { integrationTimesteps, reset };
          return Promise.all(this.oracles.map((oracle) => oracle.forward(cut(x, this.inputWidth), options)));
        });
        return { y, alone: await Promise.all(alone) };
      },
      check: ({ y, alone }) => {
        for (const [row, results] of alone.entries()) {
          const whole = y.subarray(row * seqLen * outputWidth, (row + 1) * seqLen * outputWidth);
          const [bits, near] = results.map((result) => {
            const filled = new Float32Array(whole.length);
            filled.set(result.y);
            return filled;
          });
          this.judge.output(`${what}, row ${row}`, whole, [bits, near], where !== "webgpu", where);
        }
      },
    };
  }

  /** forwardStream, of a source that is cut anywhere. */
  stream() {
    const { next, models, pools, inputWidth } = this;
    const single = this.#caches.filter(({ streams }) => streams.length === 1);
    const from = single.length > 0 && next() < 0.7 ? pick(next, single) : undefined;
    const where = from?.where ?? this.#somewhere();
    const stream = from?.streams[0].clone() ?? this.#fresh(1)[0];
    const tokens = next() < 0.5 ? between(next, 1, 60) : undefined;
    const every = !pools && next() < 0.4 ? between(next, 2, 7) : 1;
    const total = pick(next, seqLens);
    const [x, marks] = this.#tokens(total, 0.03);
    const { chunks, ends } = cutUp(next, x, marks, inputWidth, tokens);
    const what = `forwardStream of ${total} in ${chunks.length} chunks on ${where} (tokens ${tokens}, every ${every}, ${Object.keys(marks)}${from ? ", state" : ""})`;
    const { signal } = this;
    return {
      what,
      touches: from?.streams ?? [],
      run: async () => {
        const results = [];
        const options = { tokens, every, state: from?.cache, signal };
        for await (const result of models[where].forwardStream(chunks, options)) results.push(result);
        return results;
      },
      refused: (error) => this.#refused(what, error, from, stopped(signal)),
      check: (results) => {
        if (from) this.judge.cache(`${what}, where it started`, from.cache, from.streams);
        if (results.length !== ends.size)
          return this.judge.wrong.push(`${what}: ${results.length} results, not ${ends.size}`);
        let t = 0;
        for (const [i, end] of [...ends].entries()) {
          const { y, state } = results[i];
          const said = `${what}, result ${i}`;
          let [at, last] = [0, undefined];
          for (; t < end; t++) {
            last = this.#read(where, stream, x, t, marks);
            if (!pools && stream.tokens % every === 0) this.#compare(said, where, y, at++, stream, last);
          }
          if (pools) this.#compare(said, where, y, at++, stream, last);
          if (at * this.outputWidth !== y.length)
            this.judge.wrong.push(`${said} has ${y.length} values, not ${at} outputs`);
          this.judge.cache(said, state, [stream]);
          if (end === total) this.#keep(where, state, [stream]);
        }
      },
    };
  }

  /** A state as bytes, to another engine or back to its own. */
  move() {
    const { models } = this;
    const { where, cache, streams } = this.#some();
    const to = this.#somewhere();
    const what = `a state from ${where} to ${to}`;
    return {
      what,
      touches: streams,
      run: async () => models[to].deserializeState(models[where].serializeState(cache)),
      check: (moved) => {
        const copies = streams.map((stream) => stream.clone());
        this.judge.cache(what, moved, copies);
        this.#keep(to, moved, copies);
      },
    };
  }

  /** clone, read, write, reset or set. */
  change() {
    const { next } = this;
    const { where, cache, streams } = this.#some();
    const kind = pick(next, ["clone", "read", "write", "reset", "set"]);
    const what = `${kind} on ${where}`;
    const fitting = this.#caches.filter(
      (other) => other.where === where && other.streams.length <= streams.length,
    );
    const other = pick(next, [...fitting, { cache, streams }]);
    const changes = {
      clone: () => {
        const copies = streams.map((stream) => stream.clone());
        this.#keep(where, cache.clone(), copies);
      },
      read: () => {
        const rows = this.#rowsOf(streams);
        const copies = Array.from(rows, (row) => streams[row].clone());
        if (copies.length > 0) this.#keep(where, cache.read(rows), copies);
      },
      write: () => {
        const rows = Int32Array.from(streams.keys()).reverse().slice(0, other.streams.length);
        cache.write(other.cache, rows);
        const copies = other.streams.map((stream) => stream.clone());
        for (const [i, row] of rows.entries()) streams[row] = copies[i];
      },
      reset: () => {
        const rows = this.#rowsOf(streams);
        cache.reset(rows);
        for (const row of rows) streams[row].reset();
      },
      set: () => {
        const h = cache.get();
        setTo(cache, h);
        for (const [row, stream] of streams.entries()) stream.set(rowOf(h, row, streams.length));
      },
    };
    const check = () => {
      changes[kind]();
      this.judge.cache(what, cache, streams);
    };
    return { what, touches: [...streams, ...other.streams], run: async () => {}, check };
  }

  /** Steps of a cache that stays on the GPU; they do not wait for each other. */
  resident() {
    const { next } = this;
    const model = this.models.webgpu;
    const given = this.#some();
    const streams = given.streams.map((stream) => stream.clone());
    const what = `a GpuCache of ${streams.length}`;
    const calls = Array.from({ length: between(next, 1, 4) }, () => {
      const rows = this.#rowsOf(streams);
      const count = pick(next, [1, 1, 3]) * rows.length;
      const [x, marks] = this.#tokens(count, 0.05);
      return { rows, count, x, marks };
    });
    return {
      what,
      touches: given.streams,
      run: async () => {
        const start = model.deserializeState(this.models[given.where].serializeState(given.cache));
        const cache = await model.allocateGpuCache(streams.length);
        const written = cache.write(start);
        const outputs = calls.map(({ x, rows, marks }) => model.stepMany(x, cache, { rows, ...marks }));
        const [all] = await Promise.all([Promise.all(outputs), written]);
        const state = await cache.read();
        cache.dispose();
        return { all, state };
      },
      refused: (error) => {
        const codes = this.windows ? ["unsupported", ...this.excuses] : this.excuses;
        this.#refused(what, error, undefined, codes);
      },
      check: ({ all, state }) => {
        for (const [call, { rows, count, x, marks }] of calls.entries()) {
          for (let i = 0; i < count; i++) {
            const stream = streams[rows[i % rows.length]];
            this.#compare(what, "webgpu", all[call], i, stream, this.#read("webgpu", stream, x, i, marks));
          }
        }
        for (const stream of streams) stream.exact = false;
        this.judge.cache(what, state, streams);
        this.#keep("webgpu", state, streams);
      },
    };
  }

  #somewhere() {
    return pick(this.next, Object.keys(this.models));
  }

  #fresh(batch) {
    return Array.from({ length: batch }, () => new Stream(this.oracles));
  }

  /** A cache that there is, or a new one. */
  #some() {
    if (this.#caches.length > 0 && this.next() < 0.8) return pick(this.next, this.#caches);
    const where = this.#somewhere();
    const batch = between(this.next, 1, 4);
    this.#keep(where, this.models[where].allocateInferenceCache(batch), this.#fresh(batch));
    return this.#caches.at(-1);
  }

  /** Remembers a cache, and forgets an older one. */
  #keep(where, cache, streams) {
    if (this.#caches.length === 5) this.#caches.splice(between(this.next, 0, 4), 1);
    this.#caches.push({ where, cache, streams });
  }

  /** Some rows, in any order. */
  #rowsOf(streams) {
    const rows = Int32Array.from(streams.keys()).filter(() => this.next() < 0.6);
    return this.next() < 0.5 ? rows.reverse() : rows;
  }

  /**
   * So many tokens, and what is said of each: timesteps, resets, both, or nothing.
   * @param resets how many of them are reset before
   * @param where x may be that engine's memory
   */
  #tokens(count, resets, where) {
    const { next, vocabulary } = this;
    const marks = {};
    if (next() < 0.4) {
      const few = next() < 0.5;
      const delta = () => (few ? pick(next, [0, 0.5, 1, 1, 3]) : 3 * next() ** 2);
      marks.integrationTimesteps = Float32Array.from({ length: count }, delta);
    }
    if (next() < 0.4) {
      const mask = Array.from({ length: count }, () => next() < resets);
      marks.reset = next() < 0.5 ? mask : Uint8Array.from(mask);
    }
    if (vocabulary)
      return [Int32Array.from({ length: count }, () => between(next, 0, vocabulary - 1)), marks];
    const x = floats(count * this.inputWidth, between(next, 0, 2 ** 30), pick(next, [1, 1, 1, 30]));
    if (!where || next() < 0.8) return [x, marks];
    const own = this.engines[where].allocate(x.length);
    own.set(x);
    return [own, marks];
  }

  /** Where so many outputs may be written. */
  #out(where, outputs) {
    const length = outputs * this.outputWidth;
    const out = this.next() < 0.5 ? new Float32Array(length) : this.engines[where].allocate(length);
    return out.fill(Number.NaN);
  }

  /** What should come of token i of x. */
  #read(where, stream, x, i, { integrationTimesteps, reset }) {
    const token = x.subarray(i * this.inputWidth, (i + 1) * this.inputWidth);
    const expected = stream.read(token, integrationTimesteps?.[i], reset?.[i]);
    if (where === "webgpu") stream.exact = false;
    return expected;
  }

  /** Output i of y beside what it should be. */
  #compare(what, where, y, i, { exact }, expected) {
    const given = y.subarray(i * this.outputWidth, (i + 1) * this.outputWidth);
    this.judge.output(what, given, expected, exact, where);
  }

  /** A call may be refused for what models cannot pool, and as its own `codes` say; then nothing may have changed. */
  #refused(what, error, { cache, streams } = {}, codes = []) {
    const allowed = this.pools ? ["invalid-argument", ...codes] : codes;
    if (!allowed.includes(error.code)) this.judge.wrong.push(`${what}: ${error.stack}`);
    if (cache) this.judge.cache(`${what}, which was refused`, cache, streams);
    this.refusals++;
  }
}

/** What a call that was given a signal may be refused for. */
const stopped = (signal) => (signal?.aborted ? ["aborted"] : []);

/** One row of what `get` gave, as it gives it. */
function rowOf(h, row, batch) {
  const part = (values) => values.slice((row * values.length) / batch, ((row + 1) * values.length) / batch);
  const layer = ({ re, im }) => ({ re: part(re), im: part(im) });
  return Array.isArray(h) ? h.map(layer) : layer(h);
}
