// to = source: what memory gives when nothing else is asked of it. Consecutive threads take consecutive 16 bytes.

@group(0) @binding(0) var<storage, read_write> to: array<vec4f>;
@group(0) @binding(1) var<storage, read> source: array<vec4f>;

@compute @workgroup_size(256)
fn copy(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(num_workgroups) groups: vec3u,
) {
  let stride = groups.x * 256;
  let length = arrayLength(&to);
  for (var i = id.x; i < length; i += stride) { to[i] = source[i]; }
}
