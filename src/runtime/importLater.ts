/**
 * import() of a module that only some runtimes have: Node's own, and optional packages. The one place for it, out of sight
 * of bundlers: by a parameter, since a bundler that knew the name would fail on it for the web, and with the comments that
 * keep bundlers from warning (the build puts them back where minifying has dropped them).
 */
export async function importLater(name: string): Promise<unknown> {
  // Node's own are to be had where import() is not allowed: in Jest's CommonJS, in single executables.
  const { process } = globalThis as { process?: { getBuiltinModule?(name: string): unknown } };
  return process?.getBuiltinModule?.(name) ?? import(/* webpackIgnore: true */ /* @vite-ignore */ name);
}
