// `import code from "./kernels/scan.wgsl?raw"`: vite knows `?raw` by itself, esbuild.config.mjs teaches it to esbuild.
declare module "*.wgsl?raw" {
  const code: string;
  export default code;
}
