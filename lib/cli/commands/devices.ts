// s2ft devices: what can compute here, measured, and what CUDA lacks.
import type { Command } from 'commander'
import type { NativeDevice } from '../../native/binding.js'
import { makeCommand } from '../common.js'
import { cudaReport } from '../cuda-report.js'
import { table } from '../table.js'

const titles = ['device', 'kind', 'threads', 'isa', 'products', 'bf16 weights by']

function cells(d: NativeDevice): string[] {
  return [
    d.name,
    d.kind,
    d.kind === 'cpu' ? `${d.threads}` : '-',
    d.isa,
    d.gemm,
    d.arithmetic,
    d.peakGflops.toFixed(0),
    d.peakGflopsF32.toFixed(0),
    d.peakGflopsBf16 > 0 ? d.peakGflopsBf16.toFixed(0) : '-',
    d.totalBytes ? `${(d.totalBytes / 2 ** 30).toFixed(1)} GiB` : '-',
  ]
}

export function devicesCommand(): Command {
  return makeCommand(
    'devices',
    'Lists what can compute on this machine with its measured peak, and what of CUDA was found.',
    (command) => command,
    async (options, out) => {
      const { devices, cudaReport: nativeReport } = await import('../../model/devices.js')
      const found = await devices({ threads: options.threads })
      const native = await nativeReport()
      const report = cudaReport(native)
      const wanted = found.filter((d) => options.device === 'auto' || d.kind === options.device)
      for (const device of wanted) {
        const cuda = device.kind === 'cuda' ? { driver: native.driver, ...report } : {}
        out.event({ type: 'device', available: true, ...device, ...cuda })
      }
      if (wanted.length > 0) {
        const columns = [...titles, 'GFLOP/s', 'f32', 'bf16 instr.', 'memory']
        out.line(table(columns, wanted.map(cells), { right: [2, 6, 7, 8, 9] }))
      }
      if (options.device === 'cpu') return
      if (!found.some((d) => d.kind === 'cuda')) {
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
      }
      for (const item of report.found) out.line(`  found    ${item}`)
      for (const item of report.missing) out.line(`  missing  ${item}`)
    },
  )
}
