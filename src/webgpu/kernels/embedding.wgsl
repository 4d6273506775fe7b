// y = table[x].
// An id that is not below the vocabulary (past a row's length, or x was changed while it was read) reads the last row.

struct Sizes { width: u32, vocabulary: u32 }
@group(0) @binding(0) var<uniform> segment: Segment;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [tokens, width]
@group(0) @binding(3) var<storage, read> x: array<u32>;        // [tokens] ids
@group(0) @binding(4) var<storage, read> table: array<f32>;    // [vocabulary, width]

@compute @workgroup_size(64)
fn embedding(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flatten(group, groups) * 64 + lane;
  if (i >= segment.tokens * sizes.width) { return; }
  let id = min(x[i / sizes.width], sizes.vocabulary - 1);
  y[i] = table[id * sizes.width + i % sizes.width];
}
