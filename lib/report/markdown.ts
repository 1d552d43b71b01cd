// A report's text and tables as Markdown; plots are left to the HTML page.
import type { Block, Page, Table } from './html.js'

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}

function tableText({ caption, titles, rows, right = [] }: Table): string {
  const line = (cells: readonly string[]) => `| ${cells.map(cell).join(' | ')} |`
  const rule = `|${titles.map((_, i) => (right.includes(i) ? '--:' : '---')).join('|')}|`
  return [`${caption}:`, '', line(titles), rule, ...rows.map(line)].join('\n')
}

function blockText(block: Block): string | undefined {
  switch (block.kind) {
    case 'text':
      return block.text
    case 'command':
      return `\`\`\`sh\n${block.text}\n\`\`\``
    case 'list':
      return block.items.map((item) => `- ${item}`).join('\n')
    case 'table':
      return tableText(block.table)
    default:
      return undefined
  }
}

/** The page as Markdown, sections under second-level headings. */
export function renderMarkdown({ title, lead, sections }: Page): string {
  const texts = sections.flatMap((section) => [
    `## ${section.title}`,
    ...section.blocks.flatMap((block) => blockText(block) ?? []),
  ])
  return `${[`# ${title}`, lead, ...texts].join('\n\n')}\n`
}
