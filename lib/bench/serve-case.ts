// Measures one case of `s2ft bench serve` in a process of its own: reads its description from the
// first argument, prints the result as one JSON line.
import { native } from '../native/load.js'
import type { ServeSpec } from './serve-run.js'

async function measure({ part, spec }: ServeSpec): Promise<unknown> {
  switch (part) {
    case 'switch':
      return native().benchSwitch(spec)
    case 'layer':
      return native().benchLayer(spec)
    case 'throughput': {
      const { measureThroughput } = await import('./serve-throughput-case.js')
      return measureThroughput(spec)
    }
    case 'load': {
      const { measureLoad } = await import('./serve-load-case.js')
      return measureLoad(spec)
    }
  }
}

process.stdout.write(`${JSON.stringify(await measure(JSON.parse(process.argv[2]!)))}\n`)
