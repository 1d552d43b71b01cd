// A small line plot for terminals.

const eighths = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']

/** Means of `count` equal stretches of a list. */
function bins(values, count) {
  const width = Math.min(count, values.length)
  return Array.from({ length: width }, (_, i) => {
    const from = Math.floor((i * values.length) / width)
    const part = values.slice(from, Math.floor(((i + 1) * values.length) / width))
    return part.reduce((sum, value) => sum + value, 0) / part.length
  })
}

/** The values as filled columns above zero, with the scale at the left. */
export function plot(values, { width = 60, height = 6 } = {}) {
  const columns = bins(values, width)
  const top = Math.max(...columns)
  const filled = columns.map((value) => Math.round((value / top) * height * 8))
  const rows = []
  for (let row = height - 1; row >= 0; --row) {
    const label = row === height - 1 ? top.toFixed(2) : row === 0 ? '0.00' : ''
    const cells = filled.map((cell) => eighths[Math.max(0, Math.min(8, cell - row * 8))])
    rows.push(`${label.padStart(7)} │${cells.join('')}`)
  }
  rows.push(`${''.padStart(7)} └${'─'.repeat(columns.length)}`)
  return rows.join('\n')
}
