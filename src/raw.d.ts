// `import code from "./kernels/scan.wgsl?raw"` gives a file's text: vite knows it by itself, esbuild.config.mjs teaches it
// to esbuild.
declare module "*?raw" {
  const text: string;
  export default text;
}
