/** Writes ONNX models (protocol buffers, by hand: the few messages and fields that are needed) and builds their graphs. */

const FLOAT = 1;
const INT64 = 7;

/** A field of a message: bytes (length-delimited) or a varint, by the type of `value`. */
function field(number, value) {
  if (typeof value === "number") return message(varint(number * 8), varint(value));
  const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
  return message(varint(number * 8 + 2), varint(bytes.length), bytes);
}

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Uint8Array.from([...bytes, value]);
}

function message(...fields) {
  const parts = fields.flat();
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength);

/** TensorProto: dims 1, data_type 2, name 8, raw_data 9 */
function tensor(name, data, dims) {
  const type = data instanceof Float32Array ? FLOAT : INT64;
  return message(
    dims.map((size) => field(1, size)),
    field(2, type),
    field(8, name),
    field(9, bytesOf(data)),
  );
}

/** ValueInfoProto { name 1, type 2 { tensor_type 1 { elem_type 1, shape 2 { dim 1 { dim_value 1 } } } } } */
function valueInfo(name, dims) {
  const shape = message(dims.map((size) => field(1, field(1, size))));
  return message(field(1, name), field(2, field(1, message(field(1, FLOAT), field(2, shape)))));
}

/** AttributeProto: name 1, i 3, g 6, ints 8, type 20 (INT 2, GRAPH 5, INTS 7) */
function attribute(name, value) {
  if (typeof value === "number") return message(field(1, name), field(3, value), field(20, 2));
  if (Array.isArray(value))
    return message(
      field(1, name),
      value.map((i) => field(8, i)),
      field(20, 7),
    );
  return message(field(1, name), field(6, value), field(20, 5));
}

/** The nodes and constants of a graph, and the operations of formulations.mjs: tensors are names. */
export class GraphBuilder {
  #nodes = [];
  #constants = [];
  #known = new Map();
  #count = 0;
  #prefix;

  constructor(prefix = "v") {
    this.#prefix = prefix;
  }

  /** NodeProto: input 1, output 2, op_type 4, attribute 5 */
  node(type, inputs, attributes = {}, outputs = [this.#fresh()]) {
    const parts = [
      inputs.map((name) => field(1, name)),
      outputs.map((name) => field(2, name)),
      field(4, type),
    ];
    for (const [name, value] of Object.entries(attributes)) parts.push(field(5, attribute(name, value)));
    this.#nodes.push(message(...parts));
    return outputs[0];
  }

  constant(make, shape) {
    const name = this.#fresh();
    this.#constants.push(tensor(name, make(), shape));
    return name;
  }

  #ints(...values) {
    const key = values.join();
    const known =
      this.#known.get(key) ?? this.constant(() => BigInt64Array.from(values, BigInt), [values.length]);
    this.#known.set(key, known);
    return known;
  }

  matmul = (a, b) => this.node("MatMul", [a, b]);
  gemm = (a, b, transA, transB) =>
    this.node("Gemm", [a, b], { transA: Number(transA), transB: Number(transB) });
  add = (a, b) => this.node("Add", [a, b]);
  sub = (a, b) => this.node("Sub", [a, b]);
  mul = (a, b) => this.node("Mul", [a, b]);
  concat = (list, axis) => this.node("Concat", list, { axis });
  reshape = (a, shape) => this.node("Reshape", [a, this.#ints(...shape)]);
  slice = (a, axis, from, to) => this.node("Slice", [a, this.#ints(from), this.#ints(to), this.#ints(axis)]);

  padFront(a, axis, n, shape) {
    const before = shape.map((_, i) => (i === axis ? n : 0));
    return this.node("Pad", [a, this.#ints(...before, ...shape.map(() => 0))]);
  }

  /** One token at a time: re, im [rows, L, N] -> h, by the operator Scan, whose body is a graph. */
  scan(re, im, { lambdaRe, lambdaIm }, rows, N) {
    const body = new GraphBuilder("b");
    const a = this.constant(() => Float32Array.from(lambdaRe), [1, N]); // the body sees the names around it
    const b = this.constant(() => Float32Array.from(lambdaIm), [1, N]);
    const nextRe = body.add(body.sub(body.mul(a, "hRe"), body.mul(b, "hIm")), "inRe");
    const nextIm = body.add(body.add(body.mul(a, "hIm"), body.mul(b, "hRe")), "inIm");
    const outputs = [nextRe, nextIm, body.node("Identity", [nextRe]), body.node("Identity", [nextIm])];
    const named = (names) => names.map((name) => [name, [rows, N]]);
    const graph = body.graph("body", named(["hRe", "hIm", "inRe", "inIm"]), named(outputs));
    const zero = this.constant(() => new Float32Array(rows * N), [rows, N]);
    const results = Array.from({ length: 4 }, () => this.#fresh());
    this.node(
      "Scan",
      [zero, zero, re, im],
      { body: graph, num_scan_inputs: 2, scan_input_axes: [1, 1], scan_output_axes: [1, 1] },
      results,
    );
    return results.slice(2);
  }

  /** GraphProto: node 1, name 2, initializer 5, input 11, output 12 */
  graph(name, inputs, outputs) {
    return message(
      this.#nodes.map((node) => field(1, node)),
      field(2, name),
      this.#constants.map((constant) => field(5, constant)),
      inputs.map((value) => field(11, valueInfo(...value))),
      outputs.map((value) => field(12, valueInfo(...value))),
    );
  }

  #fresh() {
    return `${this.#prefix}${this.#count++}`;
  }
}

/** ModelProto: ir_version 1, producer_name 2, graph 7, opset_import 8 { domain 1, version 2 } */
export const model = (graph) =>
  message(
    field(1, 8),
    field(2, "linrec bench"),
    field(7, graph),
    field(8, message(field(1, ""), field(2, 17))),
  );
