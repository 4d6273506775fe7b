/** Where a Vulkan driver and its loader may be on a Linux machine, as environments to try, the likeliest first. */
import { join } from "node:path";

const MANIFESTS = ["/usr/share", "/etc", "/usr/local/share", "/usr/local/nvidia/share"].flatMap((folder) =>
  ["nvidia_icd.json", "nvidia_icd.x86_64.json"].map((file) => `${folder}/vulkan/icd.d/${file}`),
);
/** Drivers that containers mount without telling the loader: with X11's libraries, and without. */
const LIBRARIES = ["libGLX_nvidia.so.0", "libEGL_nvidia.so.0"];
const LIBRARY_FOLDERS = [
  "/usr/local/nvidia/lib64",
  "/usr/local/nvidia/lib",
  "/usr/lib/x86_64-linux-gnu/nvidia/current",
];
const LOADER_FOLDERS = [
  "/usr/lib/x86_64-linux-gnu",
  "/lib/x86_64-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
  "/usr/local/lib",
];

/**
 * @param {{ env: Record<string, string | undefined>, exists: (path: string) => boolean, loader: string, own: string }} machine
 *   loader: the folder of the libvulkan.so.1 that was brought; own: a folder in which manifests of our own may be written
 * @returns {{ label: string, env: Record<string, string>, manifest?: { path: string, library: string } }[]} variables to add;
 *   `manifest` is to be written first
 */
export function driverChoices({ env, exists, loader, own }) {
  const folders = LIBRARY_FOLDERS.filter(exists);
  const loaders = LOADER_FOLDERS.some((folder) => exists(join(folder, "libvulkan.so.1")))
    ? [[], [loader]]
    : [[loader]];
  const chosen = env.VK_DRIVER_FILES ?? env.VK_ICD_FILENAMES;
  const drivers = chosen
    ? [{ label: `${chosen}, from the environment`, env: {} }]
    : [
        ...MANIFESTS.filter(exists).map((path) => ({ label: path, env: { VK_ICD_FILENAMES: path } })),
        ...LIBRARIES.map((library) => {
          const path = join(own, `${library}.json`);
          return {
            label: `${library}, by a manifest of our own`,
            env: { VK_ICD_FILENAMES: path },
            manifest: { path, library },
          };
        }),
      ];
  return drivers.flatMap((driver) =>
    loaders.map((brought) => {
      const path = [...brought, env.LD_LIBRARY_PATH, ...folders].filter(Boolean).join(":");
      const where = brought.length ? "the loader of this bundle" : "the machine's loader";
      return {
        ...driver,
        label: `${driver.label}, ${where}`,
        env: { ...driver.env, ...(path && { LD_LIBRARY_PATH: path }) },
      };
    }),
  );
}

/** What the loader wants to know of a driver. */
export const manifestText = (library) =>
  JSON.stringify({ file_format_version: "1.0.0", ICD: { library_path: library, api_version: "1.3.0" } });
