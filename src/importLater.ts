/**
 * import() of a module that only some runtimes have: Node's own, and optional packages. The one place for it, out of sight
 * of bundlers: by a parameter, since a bundler that knew the name would fail on it for the web, and with the comments that
 * keep bundlers from warning (the build puts them back where minifying has dropped them).
 */
export function importLater(name: string): Promise<unknown> {
  return import(/* webpackIgnore: true */ /* @vite-ignore */ name);
}
