// What `s2ft bench all` runs: the other benchmarks' command lines, one after another.

export const benchmarks = ['train', 'real', 'ops', 'memory', 'growth', 'serve'] as const
export type Benchmark = (typeof benchmarks)[number]

export interface AllOptions {
  /** A model directory with a tokenizer, and its training data. */
  model: string
  data: string
  /** Python with torch, transformers and peft: peers are measured. */
  python?: string | undefined
  rounds: number
  /** Few small steps of the given model, to see that all works. */
  quick: boolean
  /** Of which benchmarks. */
  only: readonly Benchmark[]
}

/** One command: the words behind `s2ft bench`. */
export type Part = [benchmark: Benchmark, ...options: string[]]

const steps: readonly [model: string, batch: number, sequence: number][] = [
  ['smollm2-135m', 4, 256],
  ['smollm2-135m', 1, 1024],
  ['llama-1b-4l', 4, 256],
]

/** The commands that the targets are judged by, and those that tell more of the engine. */
export function allParts(options: AllOptions): Part[] {
  const parts = options.quick ? quickParts(options) : fullParts(options)
  return parts.filter(([benchmark]) => options.only.includes(benchmark))
}

function fullParts({ model, data, python, rounds }: AllOptions): Part[] {
  const each = ['--rounds', String(rounds)]
  const peer = (...words: string[]) => (python === undefined ? [] : ['--python', python, ...words])
  const bothTypes = ['--peer-dtypes', 'bf16,f32']
  const bothWays = ['--peers', 'eager,tuned', ...bothTypes]
  return [
    ...steps.map(
      ([shape, batch, sequence]): Part => [
        'train',
        ...['--model', shape, '--batch', String(batch), '--sequence', String(sequence)],
        ...['--methods', 's2ft,lora3,lora7,full', '--dtype', 'bf16', ...each],
        ...peer('--peer-methods', 'peft-lora3,peft-lora7,torch-s2ft', ...bothWays),
      ],
    ),
    [
      'real',
      ...['--model', model, '--data', data, '--methods', 's2ft,lora7', ...each],
      ...peer('--peer-methods', 'peft-lora7', '--peer-batches', '1,2,4,8', ...bothTypes),
    ],
    ...Array.from(
      new Set(steps.map(([shape]) => shape)),
      (shape): Part => ['ops', ...['--shape', shape]],
    ),
    ['memory', ...each, ...peer()],
    ['growth', ...each],
    ['serve', '--only', 'switch,layer,throughput', ...each],
    ['serve', '--only', 'load', '--model', model, '--clients', '1000', '--minutes', '10'],
  ]
}

function quickParts({ model, data, python }: AllOptions): Part[] {
  const once = ['--steps', '1', '--warmup', '1', '--rounds', '1', '--channels', '8']
  const small = ['--model', model, '--batch', '2', '--sequence', '16', ...once]
  const peer = python === undefined ? [] : ['--python', python]
  return [
    ['train', ...small, ...peer],
    ['real', '--model', model, '--data', data, '--batch', '2', ...once, ...peer],
    ['ops', '--tokens', '8', '--seconds', '0'],
    ['memory', ...small, ...peer],
    ['growth', '--quick', '--rounds', '1', '--steps', '1'],
    [
      'serve',
      ...['--model', model, '--rounds', '1', '--rank', '4', '--widths', '64'],
      ...['--layer-width', '64', '--adapters', '8', '--batch', '4'],
      ...['--in-flight', '1,2', '--prompt-tokens', '4', '--new-tokens', '3'],
      ...['--clients', '2', '--minutes', '0.01', '--load-adapters', '2'],
    ],
  ]
}
