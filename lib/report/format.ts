// The units in which people read numbers, in terminals and on pages. `-` is what is not known.

type Known = number | null | undefined

const missing = '-'

/** `1.23 GB`, `45 MB`: decimal units. */
export function bytes(n: Known): string {
  if (n === null || n === undefined) return missing
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

/** `0.83%`, with two significant digits; three from 10 % on. */
export function percent(share: Known): string {
  if (share === null || share === undefined) return missing
  return `${Number((100 * share).toPrecision(share >= 0.1 ? 3 : 2))}%`
}

/** `+1.2%`, `-0.4%`: how far one figure is from another. */
export function difference(share: Known): string {
  if (share === null || share === undefined) return missing
  return `${share < 0 ? '' : '+'}${(100 * share).toFixed(1)}%`
}

/** `1.93x`: how many times one figure is another. */
export function times(ratio: Known): string {
  return ratio === null || ratio === undefined ? missing : `${ratio.toFixed(2)}x`
}

/** `1.90-1.95`: least and most; `format` writes each. */
export function between(
  range: readonly [number, number] | null | undefined,
  format = (value: number) => value.toFixed(2),
): string {
  return range ? range.map((value) => format(value)).join('-') : missing
}

/** `[1.90, 1.95]`: the ends of an interval; `-` where nothing bounds it. */
export function interval(
  ends: readonly [number, number],
  format: (value: number) => string,
): string {
  return ends.every(Number.isFinite) ? `[${ends.map(format).join(', ')}]` : missing
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
