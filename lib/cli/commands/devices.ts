// s2ft devices: what can compute here, measured, and what CUDA lacks.
import type { Command } from 'commander'
import { makeCommand } from '../common.js'
import { cudaReport } from '../cuda-report.js'
import { table } from '../table.js'

export function devicesCommand(): Command {
  return makeCommand(
    'devices',
    'Lists what can compute on this machine with its measured peak, and what of CUDA was found.',
    (command) => command,
    async (options, out) => {
      const { devices } = await import('../../index.js')
      const found = await devices({ threads: options.threads })
      const wanted = found.filter((d) => options.device === 'auto' || d.kind === options.device)
      for (const device of wanted) out.event({ type: 'device', available: true, ...device })
      const rows = wanted.map((d) => [
        d.name,
        d.kind,
        `${d.threads}`,
        d.isa,
        d.gemm,
        d.arithmetic,
        d.peakGflops.toFixed(0),
        d.peakGflopsF32.toFixed(0),
        d.peakGflopsBf16 > 0 ? d.peakGflopsBf16.toFixed(0) : '-',
      ])
      const titles = ['device', 'kind', 'threads', 'isa', 'products', 'bf16 weights by']
      if (rows.length > 0) {
        out.line(table([...titles, 'GFLOP/s', 'f32', 'bf16 instr.'], rows, { right: [2, 6, 7, 8] }))
      }
      if (options.device === 'cpu' || found.some((d) => d.kind === 'cuda')) return
      const report = cudaReport()
      out.event({
        type: 'device',
        name: 'CUDA',
        kind: 'cuda',
        available: false,
        arithmetic: null,
        peakGflops: null,
        ...report,
      })
      out.line('\nNo CUDA device can be used.')
      for (const item of report.found) out.line(`  found    ${item}`)
      for (const item of report.missing) out.line(`  missing  ${item}`)
    },
  )
}
