/** The runtime's timers as they are on import: fake ones of a test, which come later, may never run. A worklet has none. */
export const { setImmediate, setTimeout, clearTimeout } = globalThis as Partial<typeof globalThis>;

/** Milliseconds since some moment. Of an audio worklet, which has no `performance`, Date's: they tick seldom, and may jump. */
export const now = () => globalThis.performance?.now() ?? Date.now();
