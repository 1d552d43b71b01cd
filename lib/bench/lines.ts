// The JSON lines of the benchmarks as a report reads them: the fields it uses, checked.
import * as z from 'zod'

const range = z.tuple([z.number(), z.number()])
const nullable = z.number().nullable()

/** The first line of a command: what ran, when, and on what. */
export const run = z.object({
  type: z.literal('run'),
  command: z.string(),
  version: z.string(),
  date: z.string(),
  machine: z.object({ cpu: z.string(), cores: z.number(), memory: z.number(), os: z.string() }),
  node: z.string(),
  gemm: z.string(),
  isa: z.string(),
  arithmetic: z.string(),
  threads: z.number(),
})

/** Written by `s2ft bench all` behind a command that went to its end. */
const end = z.object({ type: z.literal('end'), command: z.string(), seconds: z.number() })

const peers = z.object({
  type: z.literal('peers'),
  python: z.string(),
  torch: z.string(),
  transformers: z.string(),
  peft: z.string(),
})

/** What tells a case from the others of its run. */
const identity = {
  method: z.string(),
  dtype: z.string(),
  /** How a peer trains: eager, or tuned; null for this engine. */
  variant: z.string().nullable().default(null),
  batch: z.number(),
}
const caseFields = {
  ...identity,
  model: z.string(),
  threads: z.number(),
  sequence: z.number(),
  trainable: z.number(),
  tokensPerSecond: z.number(),
  tokensPerSecondRange: range,
  peakBytes: nullable,
  gflop: z.number(),
  shareOfPeak: nullable,
  shareOfPeakAround: nullable.default(null),
  peakGflops: nullable,
  rounds: z.number(),
}
const trainCase = z.object({ type: z.literal('case'), ...caseFields })

const real = z.object({
  type: z.literal('real'),
  ...identity,
  model: z.string(),
  data: z.string(),
  threads: z.number(),
  trainable: z.number(),
  samples: z.number(),
  tokens: z.number(),
  trainedShare: z.number(),
  samplesPerSecond: z.number(),
  samplesPerSecondRange: range,
  tokensPerSecond: z.number(),
  padding: z.number(),
  peakBytes: nullable,
  lossFirst: z.number(),
  lossLast: z.number(),
  rounds: z.number(),
})

/** A run's first case over another: speed or memory, or for operations times as fast. */
const caseRatio = z.object({
  type: z.literal('ratio'),
  bench: z.string(),
  ...identity,
  model: z.string(),
  quantity: z.enum(['tokensPerSecond', 'samplesPerSecond', 'peakBytes']),
  against: z.string(),
  againstDtype: z.string(),
  againstVariant: z.string().nullable(),
  againstBatch: z.number(),
  ratio: z.number(),
  ratioRange: range,
  best: z.boolean(),
})
const opRatio = z.object({
  type: z.literal('ratio'),
  op: z.string(),
  against: z.string(),
  dtype: z.string(),
  ratio: z.number(),
  ratioRange: range,
})
const ratio = z.union([caseRatio, opRatio])

const failure = z.object({
  type: z.literal('failure'),
  bench: z.string(),
  ...identity,
  code: z.string(),
  message: z.string(),
})
const warning = z.object({
  type: z.literal('warning'),
  bench: z.string(),
  ...identity,
  message: z.string(),
})

const op = z.object({
  type: z.literal('op'),
  op: z.string(),
  group: z.string(),
  dtype: z.string(),
  seconds: z.number(),
  secondsRange: range,
  gflops: nullable,
  gbps: z.number(),
  shareOfPeak: z.number(),
})
const peak = z.object({
  type: z.literal('peak'),
  threads: z.number(),
  gflops: z.number(),
  gbps: z.number(),
})
const spread = z.object({ median: z.number(), range })
const memoryFields = {
  plannedBytes: nullable,
  planDifference: nullable,
  stepBytes: nullable,
  memoryBytes: nullable,
  seconds: z.number(),
  secondsRange: range,
}
const memory = z.object({
  type: z.literal('memory'),
  ...caseFields,
  ...memoryFields,
  recompute: z.string().nullable(),
  recomputedGflop: z.number(),
  timeAgainstNone: spread.nullable(),
  peakAgainstNone: spread.nullable(),
  peakAgainst: z.record(z.string(), spread),
})

const place = { axis: z.string(), series: z.string(), unit: z.string() }
/** Of loading and of steps: a field that one of them lacks is optional. */
const growth = z.object({
  type: z.literal('growth'),
  ...place,
  x: z.number(),
  seconds: z.number(),
  secondsRange: range,
  dtype: z.string(),
  peakBytes: nullable,
  plannedBytes: nullable.optional(),
  planDifference: nullable.optional(),
  stepBytes: nullable.optional(),
  memoryBytes: nullable.optional(),
  tokensPerSecond: z.number().optional(),
  shareOfPeak: nullable.optional(),
  bytesPerSecond: z.number().optional(),
  privateBytes: nullable.optional(),
  mappedBytes: nullable.optional(),
})
const growthSkipped = z.object({
  type: z.literal('growth-skipped'),
  ...place,
  x: z.number(),
  lacks: z.string(),
  neededBytes: z.number(),
  availableBytes: z.number(),
})
const growthFit = z.object({
  type: z.literal('growth-fit'),
  ...place,
  quantity: z.string(),
  exponent: z.number(),
  points: z.number(),
  from: z.number(),
  to: z.number(),
})

const serveSwitch = z.object({
  type: z.literal('serve-switch'),
  width: z.number(),
  method: z.string(),
  dtype: z.string(),
  parameters: z.number(),
  keptBytes: z.number(),
  fuseSeconds: z.number(),
  switchSeconds: z.number(),
  switchSecondsRange: range,
  unfuseSeconds: z.number(),
  loraRatio: spread.nullable(),
})
const serveLayer = z.object({
  type: z.literal('serve-layer'),
  adapters: z.number(),
  method: z.string(),
  dtype: z.string(),
  width: z.number(),
  batch: z.number(),
  parameters: z.number(),
  residentBytes: z.number(),
  seconds: z.number(),
  secondsRange: range,
  adapterSeconds: z.number(),
  adapterSecondsRange: range,
  time: spread.nullable(),
  adapterTime: spread.nullable(),
  memory: spread.nullable(),
})
const serveThroughput = z.object({
  type: z.literal('serve-throughput'),
  model: z.string(),
  method: z.string(),
  inFlight: z.number(),
  dtype: z.string(),
  parameters: z.number(),
  tokensPerSecond: z.number(),
  tokensPerSecondRange: range,
  peakBytes: nullable,
  ofBase: spread.nullable(),
})
const percentiles = z.object({ p50: z.number(), p95: z.number(), p99: z.number() })
const serveLoad = z.object({
  type: z.literal('serve-load'),
  model: z.string(),
  dtype: z.string(),
  clients: z.number(),
  adapters: z.number(),
  requests: z.number(),
  errors: z.number(),
  firstError: z.string().nullable(),
  tokensPerSecond: z.number(),
  seconds: z.number(),
  firstToken: percentiles,
  token: percentiles,
  residentBefore: nullable,
  residentAfter: nullable,
  bytesPerMinute: nullable,
  pagesBefore: z.number(),
  pagesAfter: z.number(),
})
const serveSkipped = z.object({
  type: z.literal('serve-skipped'),
  part: z.string(),
  what: z.string(),
  neededBytes: z.number(),
  availableBytes: z.number(),
})

/** Printed by `s2ft bench all`; a report judges anew. */
const target = z.object({ type: z.literal('target'), what: z.string(), met: z.boolean() })

const schemas = {
  run,
  end,
  target,
  peers,
  case: trainCase,
  real,
  ratio,
  failure,
  warning,
  op,
  peak,
  memory,
  growth,
  'growth-skipped': growthSkipped,
  'growth-fit': growthFit,
  'serve-switch': serveSwitch,
  'serve-layer': serveLayer,
  'serve-throughput': serveThroughput,
  'serve-load': serveLoad,
  'serve-skipped': serveSkipped,
}

type Schemas = typeof schemas
export type LineType = keyof Schemas
export type Line<T extends LineType = LineType> = { [K in T]: z.infer<Schemas[K]> }[T]
export type CaseRatio = z.infer<typeof caseRatio>
export type OpRatio = z.infer<typeof opRatio>

/** One line of a results file. Throws an Error that says what is wrong with it. */
export function parseLine(text: string): Line {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new Error(`expected a JSON object, found '${text.slice(0, 60)}'`)
  }
  const type = (value as { type?: unknown } | null)?.type
  if (typeof type !== 'string' || !Object.hasOwn(schemas, type)) {
    const known = Object.keys(schemas).join(', ')
    throw new Error(`expected a type of ${known}, found ${JSON.stringify(type) ?? 'none'}`)
  }
  const found = schemas[type as LineType].safeParse(value)
  if (found.success) return found.data
  const { path, message } = found.error.issues[0]!
  throw new Error(`${type} line: ${path.join('.')}: ${message}`)
}
