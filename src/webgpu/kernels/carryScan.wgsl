// carry[c+1] = lambda^T carry[c] + loc[T-1] over the chunks of a row.
// On two levels, for accuracy: groups of 1, 2, 4, ... GROUP chunks are scanned from 0 with lambda^T, then the groups with its
// power, and chunk j of a group adds lambda^(T j) times what came into the group. What multiplies again and again has a
// second word, for what float32 rounded off.
// Nothing comes into a chunk that is FRESH, nor past it. Only the chunk before such a one, and the row's last, are short.
// States that read back take a row's chunks from its last on, from zero; what they end on is nobody's.
// A workgroup takes STATES states of one row (one sector of memory), and each thread one group of one state at a time. It loads
// AHEAD chunks at once: nothing but the wait for memory takes time here.

const STATES = 4u;
const SCANS = 256 / STATES; // groups at a time
const AHEAD = 8u;
struct Sizes { dState: u32, back: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> carry: array<vec2f>; // [chunks, dState], in: loc[T-1]
@group(0) @binding(3) var<storage, read_write> state: array<vec2f>; // [rows, dState], in: h before, out: h after
@group(0) @binding(4) var<storage, read> loc: array<vec2f>;         // [tokens, dState]
@group(0) @binding(5) var<storage, read> powers: array<vec2f>;      // [T, dState], lambda^(k+1)
@group(0) @binding(6) var<storage, read> jumps: array<vec2f>;       // [GROUP + 1 + 7, dState], lambda^(T j); second words, j = 2^i
@group(0) @binding(7) var<storage, read> rows: array<vec4u>;        // [rows], first chunk, chunks, ...
@group(0) @binding(8) var<storage, read> chunks: array<vec2u>;      // [chunks], first token, tokens | FRESH

var<workgroup> totals: array<vec2f, 256>; // [SCANS, STATES], first each group's sum, then what comes into it
var<workgroup> ends: array<bool, 256>;    // the same: whether nothing passes through the group

@compute @workgroup_size(256)
fn carryScan(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let blocks = (sizes.dState + STATES - 1) / STATES;
  let task = flatten(group, groups);
  if (task >= segment.rows * blocks) { return; }
  let row = task / blocks;
  let origin = rows[row].x;
  let count = rows[row].y;
  let owner = task % blocks * STATES + thread % STATES;
  let owned = owner < sizes.dState;
  let n = min(owner, sizes.dState - 1);
  let bits = select(firstLeadingBit((count - 1) / SCANS) + 1, 0u, count <= SCANS);
  let size = min(1u << bits, GROUP);
  let step = Wide(jumps[sizes.dState + n], jumps[(GROUP + 1) * sizes.dState + n]);
  let leap = Wide(jumps[size * sizes.dState + n], jumps[(GROUP + 1 + firstTrailingBit(size)) * sizes.dState + n]);

  let back = isBack(n, sizes.back);
  var incoming = state[row * sizes.dState + n];
  for (var base = 0u; base < count; base += SCANS * size) {
    let begin = min(base + thread / STATES * size, count);
    let end = min(begin + size, count);

    var sum = vec2f(0);
    var isEnd = false;
    for (var c = begin; c < end; c += AHEAD) {
      var given: array<vec2f, AHEAD>;
      var fresh: array<bool, AHEAD>;
      for (var i = 0u; i < AHEAD; i++) {
        if (c + i < end) {
          given[i] = carry[chunkAt(origin, count, c + i, back) * sizes.dState + n];
          fresh[i] = isFresh(origin, count, c + i, back);
        }
      }
      for (var i = 0u; i < AHEAD; i++) {
        if (c + i < end) {
          if (fresh[i]) {
            sum = vec2f(0);
            isEnd = true;
          }
          sum = advance(step, sum, given[i]);
        }
      }
    }
    totals[thread] = sum;
    ends[thread] = isEnd;
    workgroupBarrier();

    if (thread < STATES) {
      for (var i = thread; i < 256; i += STATES) {
        let total = totals[i];
        totals[i] = incoming;
        if (ends[i]) { incoming = total; } else { incoming = advance(leap, incoming, total); }
      }
    }
    workgroupBarrier();

    var start = totals[thread];
    sum = vec2f(0);
    for (var c = begin; c < end; c += AHEAD) {
      var given: array<vec2f, AHEAD>;
      var jump: array<vec2f, AHEAD>;
      var fresh: array<bool, AHEAD>;
      for (var i = 0u; i < AHEAD; i++) {
        if (c + i < end) {
          given[i] = carry[chunkAt(origin, count, c + i, back) * sizes.dState + n];
          jump[i] = jumps[(c + i - begin) * sizes.dState + n];
          fresh[i] = isFresh(origin, count, c + i, back);
        }
      }
      for (var i = 0u; i < AHEAD; i++) {
        if (c + i < end) {
          if (fresh[i]) {
            sum = vec2f(0);
            start = vec2f(0);
          }
          let h = sum + multiply(jump[i], start);
          sum = advance(step, sum, given[i]);
          if (owned) { carry[chunkAt(origin, count, c + i, back) * sizes.dState + n] = h; }
          if (owned && c + i + 1 == count && !back) {
            let chunk = chunks[origin + c + i];
            let k = (chunk.y & ~FRESH) - 1;
            let last = loc[(chunk.x + k) * sizes.dState + n];
            state[row * sizes.dState + n] = last + multiply(powers[k * sizes.dState + n], h);
          }
        }
      }
    }
    workgroupBarrier();
  }
}

struct Wide { high: vec2f, low: vec2f }

fn advance(by: Wide, h: vec2f, added: vec2f) -> vec2f { return multiply(by.high, h) + (multiply(by.low, h) + added); }

// Chunk c of a row in the order in which a state reads them.
fn chunkAt(origin: u32, count: u32, c: u32, back: bool) -> u32 { return origin + select(c, count - 1 - c, back); }

fn isFresh(origin: u32, count: u32, c: u32, back: bool) -> bool {
  // From the row's end each document's last chunk is its first.
  if (back) { return c == 0 || (chunks[origin + count - c].y & FRESH) != 0; }
  return (chunks[origin + c].y & FRESH) != 0;
}
