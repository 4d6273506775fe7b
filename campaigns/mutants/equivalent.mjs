// Mutants that no test can kill, because the program they leave is the same: each with the reason.
const list = [];

/** The reason; undefined for a mutant that is not known to change nothing. */
export function equivalent({ file, says, becomes }) {
  return list.find(
    (entry) =>
      entry.file === file && entry.says === says && (entry.becomes ?? becomes.trim()) === becomes.trim(),
  )?.reason;
}
