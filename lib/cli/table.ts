// Plain-text tables and the units in which people read numbers.

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

/** `1.23 GB`, `45 MB`: decimal units. */
export function bytes(n: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let i = 0
  let value = n
  while (value >= 999.5 && i < units.length - 1) {
    value /= 1000
    i++
  }
  return `${value >= 100 || i === 0 ? value.toFixed(0) : value.toPrecision(3)} ${units[i]}`
}

/** `134,515,008`. */
export function grouped(n: number): string {
  return n.toLocaleString('en-US')
}

/** `0.83%`, with two significant digits. */
export function percent(share: number): string {
  return `${Number((100 * share).toPrecision(share >= 0.1 ? 3 : 2))}%`
}

/** `1h 02m`, `3m 05s`, `42s`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const total = Math.round(seconds)
  const pad = (n: number) => String(n).padStart(2, '0')
  if (total >= 3600) return `${Math.floor(total / 3600)}h ${pad(Math.floor((total % 3600) / 60))}m`
  if (total >= 60) return `${Math.floor(total / 60)}m ${pad(total % 60)}s`
  return `${total}s`
}

/** `+1.2%`, `-0.4%`: how far one figure is from another. */
export function difference(share: number): string {
  return `${share < 0 ? '' : '+'}${(100 * share).toFixed(1)}%`
}
