/** Milliseconds since some moment. Of an audio worklet, which has no `performance`, Date's: they tick seldom, and may jump. */
export const now = () => globalThis.performance?.now() ?? Date.now();
