// Plain-text tables.

/** A table with aligned columns; `right` lists the columns of numbers. */
export function table(
  titles: readonly string[],
  rows: readonly (readonly string[])[],
  options: { right?: readonly number[] } = {},
): string {
  const right = new Set(options.right ?? [])
  const all = [titles, ...rows]
  const widths = titles.map((_, i) => Math.max(...all.map((row) => (row[i] ?? '').length)))
  const line = (row: readonly string[]) =>
    row
      .map((cell, i) => (right.has(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd()
  return [line(titles), line(widths.map((n) => '-'.repeat(n))), ...rows.map(line)].join('\n')
}
