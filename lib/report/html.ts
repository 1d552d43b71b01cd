// A report as one HTML file that needs no net, no server and no script: text, tables, figures.
import { type DotPlot, dotPlot } from './dot-plot.js'
import { type GridPlot, gridPlot } from './grid-plot.js'
import { type BarPlot, barPlot, type LinePlot, linePlot } from './plots.js'

/** What a section shows, in this order. */
export type Block =
  | { kind: 'text'; text: string }
  | { kind: 'command'; text: string }
  | { kind: 'list'; items: readonly string[] }
  | { kind: 'table'; table: Table }
  | { kind: 'bars'; plot: BarPlot }
  | { kind: 'dots'; plot: DotPlot }
  | { kind: 'grid'; plot: GridPlot }
  | { kind: 'lines'; plot: LinePlot }

export interface Table {
  caption: string
  titles: readonly string[]
  rows: readonly (readonly string[])[]
  /** Columns of numbers, which are set to the right. */
  right?: readonly number[]
}

export interface Section {
  title: string
  blocks: readonly Block[]
}

export interface Page {
  title: string
  lead: string
  sections: readonly Section[]
}

/** Characters from which a table's cell is broken into lines. */
const LONG_TITLE = 12
const LONG_TEXT = 28

const light = ['#2f6fb3', '#c8590a', '#2d8659', '#8a3fa0', '#a8324a', '#7a6a00', '#1d8a99', '#666']
const dark = ['#6aa9e9', '#f0954a', '#5cc08d', '#c58bdb', '#ee8195', '#cdbb45', '#5cc6d4', '#aaa']

function variables(colours: readonly string[]): string {
  return colours.map((colour, i) => `--series-${i + 1}:${colour}`).join(';')
}

const style = `
:root{color-scheme:light dark;--page:#fff;--ink:#1b1b1b;--soft:#5c5c5c;--line:#d9d9d9;${variables(light)}}
@media (prefers-color-scheme:dark){:root{--page:#161719;--ink:#e6e6e6;--soft:#a3a3a3;--line:#3a3c40;${variables(dark)}}}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--page);color:var(--ink);font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.2}h2{font-size:1.2rem;margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem}
p,li,figcaption,caption{overflow-wrap:anywhere}
code{font:.85rem ui-monospace,monospace;overflow-wrap:anywhere}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{padding:.25rem .6rem .25rem 0;text-align:left;vertical-align:bottom;border-bottom:1px solid var(--line)}
th{font-weight:600}th:not(:first-child),td:not(:first-child){padding-left:.3rem}td{white-space:nowrap}.n{text-align:right}th.w{min-width:5.5rem}td.w{white-space:normal;min-width:13rem}
figure{margin:1.5rem 0;overflow-x:auto}
figcaption{font-weight:600;margin-bottom:.25rem}
svg{display:block;width:100%;min-width:20rem;height:auto}`

/** Text that is safe between tags and inside quoted attributes. */
export function escapeHtml(text: string): string {
  const entities: Record<string, string> = { '&': 'amp', '<': 'lt', '>': 'gt', '"': 'quot' }
  return text.replace(/[&<>"]/g, (sign) => `&${entities[sign]};`)
}

function tableHtml({ caption, titles, rows, right = [] }: Table): string {
  const cell = (tag: 'th' | 'td', text: string, i: number) => {
    const long = text.length > (tag === 'th' ? LONG_TITLE : LONG_TEXT)
    const names = [...(right.includes(i) ? ['n'] : []), ...(long ? ['w'] : [])]
    const classes = names.length > 0 ? ` class="${names.join(' ')}"` : ''
    return `<${tag}${tag === 'th' ? ' scope="col"' : ''}${classes}>${escapeHtml(text)}</${tag}>`
  }
  const head = titles.map((text, i) => cell('th', text, i)).join('')
  const body = rows.map((row) => `<tr>${row.map((text, i) => cell('td', text, i)).join('')}</tr>`)
  return (
    `<div class="wide" tabindex="0" role="region" aria-label="${escapeHtml(caption)}"><table>` +
    `<caption>${escapeHtml(caption)}</caption><thead><tr>${head}</tr></thead>\n` +
    `<tbody>${body.join('\n')}</tbody></table></div>`
  )
}

/** A drawn plot with its title above, and its description for screen readers. */
function figureHtml(title: string, description: string, svg: string): string {
  const width = /^<svg [^>]*?width="([\d.]+)"/.exec(svg)?.[1] ?? '600'
  const label = `role="img" aria-label="${escapeHtml(`${title}. ${description}`)}"`
  const drawn = svg.replace(
    '<svg ',
    `<svg ${label} style="max-width:${Math.ceil(Number(width))}px" `,
  )
  return `<figure><figcaption>${escapeHtml(title)}</figcaption>${drawn}</figure>`
}

async function blockHtml(block: Block): Promise<string> {
  switch (block.kind) {
    case 'text':
      return `<p>${escapeHtml(block.text)}</p>`
    case 'command':
      return `<p><code>${escapeHtml(block.text)}</code></p>`
    case 'list':
      return `<ul>${block.items.map((item) => `<li>${escapeHtml(item)}</li>`).join('\n')}</ul>`
    case 'table':
      return tableHtml(block.table)
    case 'bars':
      return figureHtml(block.plot.title, block.plot.description, await barPlot(block.plot))
    case 'dots':
      return figureHtml(block.plot.title, block.plot.description, await dotPlot(block.plot))
    case 'grid':
      return figureHtml(block.plot.title, block.plot.description, await gridPlot(block.plot))
    case 'lines':
      return figureHtml(block.plot.title, block.plot.description, await linePlot(block.plot))
  }
}

/** Renders the page. Throws UNSUPPORTED where it has plots and the plotting library is missing. */
export async function renderPage(page: Page): Promise<string> {
  const parts: string[] = []
  for (const { title, blocks } of page.sections) {
    parts.push(`<section><h2>${escapeHtml(title)}</h2>`)
    for (const block of blocks) parts.push(await blockHtml(block))
    parts.push('</section>')
  }
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escapeHtml(page.title)}</title><style>${style}</style></head>
<body><main><h1>${escapeHtml(page.title)}</h1><p>${escapeHtml(page.lead)}</p>
${parts.join('\n')}
</main></body></html>
`
}
