// @ts-check
// Follows a page of docs/ as a reader would: makes the files it shows, types its commands, compares what they print, and what
// the pages that they serve say. Numbers may differ in what npm and Vite print; in what a script prints they may not.
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";

/**
 * @typedef {object} Hands
 * @property {(command: string, folder: string) => string} execute gives what it printed
 * @property {(url: string) => Promise<string>} read what a page says
 * @property {NodeJS.ProcessEnv} env
 */

/**
 * @param {string} markdown
 * @param {string} home an empty folder
 * @param {string} tarball what is installed as linrec
 * @param {Hands} hands
 */
export async function follow(markdown, home, tarball, { execute, read, env }) {
  let folder = home;
  let says = "";
  /** @type {string[]} */
  const spoken = [];
  const blocks = markdown.matchAll(/(?:^`([\w./]+)`:\n\n)?^```(\w+)\n(.*?)^```/gms);
  for (const [, file, language, text = ""] of blocks) {
    if (file) writeFileSync(join(folder, file), text);
    else if (language === "text") says = text.trim();
    else if (language === "console") {
      for (const [, command = "", printed = ""] of text.matchAll(/^\$ (.*)\n((?:(?!\$ ).*\n)*)/gm)) {
        if (/^npx vite( preview)?$/.test(command)) {
          const server = await start(command, folder, env);
          compare(command, printed, server.printed);
          spoken.push(await read(server.url).finally(server.close));
          continue;
        }
        const [, made] = /^mkdir (\S+) && cd \1$/.exec(command) ?? [];
        const typed = command.replace(/^npm install linrec$/, `npm install ${tarball}`);
        compare(command, printed, execute(typed, folder));
        if (made) folder = join(folder, made);
      }
    }
  }
  if (spoken.length === 0 || spoken.some((line) => line !== says))
    throw new Error(`the pages say ${JSON.stringify(spoken)}, not ${JSON.stringify(says)}`);
}

/**
 * What the page shows must be all that a script prints, and lines of what anything else does.
 * @param {string} command
 * @param {string} shown
 * @param {string} printed
 */
function compare(command, shown, printed) {
  const exact = command.startsWith("node ");
  const lines = (/** @type {string} */ text) =>
    text
      .split("\n")
      .map((line) =>
        exact
          ? line
          : line
              .replace(/\d+/g, "0")
              .replace(/\bm?s$/, "")
              .trim(),
      )
      .filter(Boolean);
  // Where it runs in CI, Vite colours what it prints.
  const actual = lines(stripVTControlCharacters(printed));
  let at = 0;
  for (const line of lines(shown)) {
    const found = actual.findIndex(
      (other, i) => i >= at && (exact ? other === line : other.startsWith(line)),
    );
    if (found < 0) throw new Error(`\`${command}\` does not print "${line}" but\n${printed}`);
    at = found + 1;
  }
  if (exact && at !== actual.length) throw new Error(`\`${command}\` prints more than is shown:\n${printed}`);
}

/**
 * Starts a server that says its address.
 * @param {string} command
 * @param {string} folder
 * @param {NodeJS.ProcessEnv} env
 * @returns {Promise<{ url: string, printed: string, close: () => void }>}
 */
function start(command, folder, env) {
  const child = spawn("sh", ["-c", command.replace(/^npx /, "exec node_modules/.bin/")], {
    cwd: folder,
    env,
  });
  const close = () => void child.kill();
  let printed = "";
  return new Promise((resolve, reject) => {
    child.stderr.on("data", (data) => {
      printed += data;
    });
    child.stdout.on("data", (data) => {
      // biome-ignore lint/suspicious/noControlCharactersInRegex: colours
      printed += String(data).replace(/\x1b\[\d*m/g, "");
      const [url] = /http:\/\/localhost:\d+\//.exec(printed) ?? [];
      if (url) resolve({ url, printed, close });
    });
    child.once("exit", () => reject(new Error(`\`${command}\` ended:\n${printed}`)));
    setTimeout(
      () => reject(new Error(`\`${command}\` does not say where it serves:\n${printed}`)),
      60_000,
    ).unref();
  });
}
