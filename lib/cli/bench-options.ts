// Options that the benchmarks of whole steps share, and the peers that they ask for.
import type { Command } from 'commander'
import type { CaseSpec } from '../bench/case.js'
import { type BenchMethod, benchMethods } from '../bench/operations.js'
import {
  type PeerMethod,
  type PeerVariant,
  type PlannedPeer,
  peerMethods,
  peerVariants,
} from '../bench/peers.js'
import type { Quantization } from '../native/binding.js'
import { valued } from './common.js'
import { usage } from './output.js'
import { integer, listOf } from './parse.js'

export type BenchDtype = CaseSpec['dtype']

export interface MethodOptions {
  methods: BenchMethod[]
  rank: number
  channels: number
  rounds: number
}

/** As given; what is left out depends on the rest of the call. */
export interface PeerOptions {
  python?: string
  peers?: PeerVariant[]
  peerMethods?: PeerMethod[]
  peerDtypes?: BenchDtype[]
}

const peerNames = Object.keys(peerMethods) as PeerMethod[]

export function addMethodOptions(
  command: Command,
  defaults: { methods: BenchMethod[]; rounds: number },
): Command {
  return command
    .addOption(
      valued(
        '--methods <list>',
        's2ft, lora3 and dora3 (feed-forward modules), lora7 and dora7 (all linear modules), loreft, lisa, full',
        listOf(...benchMethods),
      ).default(defaults.methods, defaults.methods.join(',')),
    )
    .addOption(valued('--rounds <n>', 'processes a case', integer({ min: 1 }), defaults.rounds))
    .addOption(valued('--rank <r>', 'rank of LoRA, DoRA and LoReFT', integer({ min: 1 }), 16))
    .addOption(
      valued(
        '--channels <n>',
        'channels of gate, up and down that s2ft trains',
        integer({ min: 1 }),
        64,
      ),
    )
}

export interface QuantizeOptions {
  quantize: (Quantization | 'none')[]
}

export function addQuantizeOption(command: Command): Command {
  return command.addOption(
    valued(
      '--quantize <list>',
      'none, int8, nf4: how frozen weights are stored; full has none that are frozen',
      listOf('none', 'int8', 'nf4'),
    ).default(['none'], 'none'),
  )
}

/** A method over a base that is stored in one of the ways. */
export interface OwnCase {
  name: string
  method: BenchMethod
  quantize: Quantization | 'none'
}

/** Every method over every base; names tell them apart: s2ft, s2ft-nf4. */
export function ownCases({
  methods,
  quantize,
}: Pick<MethodOptions, 'methods'> & QuantizeOptions): OwnCase[] {
  const cases = quantize.flatMap((kind) =>
    methods.flatMap((method): OwnCase[] => {
      if (kind === 'none') return [{ name: method, method, quantize: kind }]
      return method === 'full' ? [] : [{ name: `${method}-${kind}`, method, quantize: kind }]
    }),
  )
  if (cases.length === 0) throw usage("option '--quantize': expected none for --methods full")
  return cases
}

export function addPeerOptions(command: Command, defaultMethods: string): Command {
  return command
    .option('--python <path>', 'Python with torch, transformers and peft: measure the peers too')
    .addOption(
      valued(
        '--peers <list>',
        'eager (as they come), tuned (torch.compile and kept memory) (default: eager)',
        listOf(...peerVariants),
      ),
    )
    .addOption(
      valued(
        '--peer-methods <list>',
        `${peerNames.join(', ')} (default: ${defaultMethods})`,
        listOf(...peerNames),
      ),
    )
    .addOption(
      valued('--peer-dtypes <list>', 'bf16, f32 (default: that of --dtype)', listOf('bf16', 'f32')),
    )
}

/** Every method in every element type and variant; none without --python. */
export function plannedPeers(
  options: PeerOptions,
  defaults: { methods: PeerMethod[]; dtype: BenchDtype },
): PlannedPeer[] {
  const { python } = options
  if (python === undefined) {
    const flags = { peers: '--peers', peerMethods: '--peer-methods', peerDtypes: '--peer-dtypes' }
    for (const [key, flag] of Object.entries(flags)) {
      if (options[key as keyof typeof flags]) throw usage(`option '${flag}': expected --python too`)
    }
    return []
  }
  const dtypes = options.peerDtypes ?? [defaults.dtype]
  const variants = options.peers ?? ['eager']
  return (options.peerMethods ?? defaults.methods).flatMap((name) =>
    variants.flatMap((variant) =>
      dtypes.map((dtype) => ({ name, method: peerMethods[name], dtype, python, variant })),
    ),
  )
}

/** @throws S2FTError USAGE when S²FT is to train more channels than a block has */
export function checkChannels({ channels }: MethodOptions, intermediate: number): void {
  if (channels > intermediate) throw usage(`option '--channels': expected up to ${intermediate}`)
}

/** The peers that do what methods of ours do. */
export function peersOf(methods: readonly BenchMethod[]): PeerMethod[] {
  return peerNames.filter((name) => methods.includes(peerMethods[name]))
}
