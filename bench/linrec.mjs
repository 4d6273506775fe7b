/** The library as it is built: bench/ is a package of its own, so it cannot import "linrec" by name. */
export * from "../dist/index.js";
