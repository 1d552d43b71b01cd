// What /metrics shows, in Prometheus' text format: the engine's counts as they are at the moment,
// and what the server itself measured.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { EngineLike, EngineStats } from '../engine/engine-types.js'

const FIRST_TOKEN = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
const TOKEN = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
const REQUEST = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]

type Reading = readonly [name: string, help: string, read: (stats: EngineStats) => number]

const gauges: readonly Reading[] = [
  ['sequences_running', 'Sequences that are decoded', (s) => s.running],
  ['sequences_waiting', 'Sequences in the queue', (s) => s.waiting],
  ['cache_pages', 'Pages of the key and value cache', (s) => s.pages.total],
  ['cache_pages_used', 'Pages that running sequences hold', (s) => s.pages.used],
  ['cache_pages_cached', 'Pages kept for prompts that begin alike', (s) => s.pages.cached],
  ['adapters_known', 'Adapters that requests can name', (s) => s.adapters.known],
  ['adapters_resident', 'Adapters in memory', (s) => s.adapters.resident],
  ['adapters_bytes', 'Memory of the adapters', (s) => s.adapters.bytes],
]

const counters: readonly Reading[] = [
  ['sequences_total', 'Sequences that were asked for', (s) => s.totals.requests],
  ['sequences_aborted_total', 'Sequences ended from outside', (s) => s.totals.aborted],
  ['sequences_preempted_total', 'Times one gave its pages to another', (s) => s.totals.preempted],
  ['prompt_tokens_total', 'Tokens of prompts', (s) => s.totals.promptTokens],
  ['cached_tokens_total', 'Of these, found in the cache', (s) => s.totals.cachedTokens],
  ['generated_tokens_total', 'Tokens generated', (s) => s.totals.generatedTokens],
  ['passes_total', 'Passes over the model', (s) => s.totals.passes],
  ['adapter_loads_total', 'Adapters read into memory', (s) => s.adapters.loads],
  ['adapter_evictions_total', 'Adapters that gave way to others', (s) => s.adapters.evictions],
]

export class Metrics {
  private readonly registry = new Registry()
  private readonly readings: ((stats: EngineStats) => void)[] = []
  /** By route's pattern, method and status; 499 where the client went away. */
  readonly httpRequests: Counter<'route' | 'method' | 'status'>
  /** By OpenAI's reason. */
  readonly choices: Counter<'finish_reason'>
  readonly firstToken: Histogram
  readonly token: Histogram
  readonly request: Histogram

  constructor() {
    const registers = [this.registry]
    collectDefaultMetrics({ register: this.registry })
    for (const [name, help, read] of gauges) {
      const gauge = new Gauge({ name: `s2ft_${name}`, help, registers })
      this.readings.push((stats) => gauge.set(read(stats)))
    }
    for (const [name, help, read] of counters) {
      const counter = new Counter({ name: `s2ft_${name}`, help, registers })
      this.readings.push((stats) => {
        counter.reset()
        counter.inc(read(stats))
      })
    }
    this.httpRequests = new Counter({
      name: 's2ft_http_requests_total',
      help: 'HTTP requests that were answered',
      labelNames: ['route', 'method', 'status'],
      registers,
    })
    this.choices = new Counter({
      name: 's2ft_choices_total',
      help: 'Choices that were generated to their end',
      labelNames: ['finish_reason'],
      registers,
    })
    const seconds = (name: string, help: string, buckets: number[]) =>
      new Histogram({ name: `s2ft_${name}_seconds`, help, buckets, registers })
    this.firstToken = seconds(
      'first_token',
      "From a request's arrival to a first token",
      FIRST_TOKEN,
    )
    this.token = seconds('token', 'From one token of a choice to the next', TOKEN)
    this.request = seconds('request', "From a request's arrival to its last token", REQUEST)
  }

  get contentType(): string {
    return this.registry.contentType
  }

  async text(engine: EngineLike): Promise<string> {
    const stats = engine.stats()
    for (const read of this.readings) read(stats)
    return this.registry.metrics()
  }
}
