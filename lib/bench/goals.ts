// What the engine is held to.
export interface Target {
  what: string
  /** Model, step, and what was compared. */
  where: string
  measured: number
  /** Least and most of the rounds, where rounds were compared. */
  range: readonly [number, number] | null
  target: number
  /** 'least': measured must reach it. 'most': measured must not exceed it. */
  bound: 'least' | 'most'
  unit: 'times' | 'share' | 'count'
  met: boolean
}

const goals = {
  peak: ['share of the measured peak', 0.85, 'least', 'share'],
  peft: ["speed against PEFT's LoRA on 7 modules, as it comes", 2, 'least', 'times'],
  tuned: ["speed against PEFT's LoRA, compiled and tuned", 1.65, 'least', 'times'],
  torch: ['speed against S²FT in PyTorch, compiled and tuned', 1.5, 'least', 'times'],
  memory: ["peak memory against PEFT's LoRA, as it comes", 1 / 3, 'most', 'times'],
  plan: ['largest difference of the memory plan from the peak', 0.05, 'most', 'share'],
  loraSpeed: ["speed against this engine's LoRA of equal size", 1.1, 'least', 'times'],
  loraMemory: ["peak memory against this engine's LoRA of equal size", 0.85, 'most', 'times'],
  real: ["speed on real data against PEFT's LoRA, batches of 8", 3, 'least', 'times'],
  switchWide: ["switch against this engine's LoRA, widths from 4096", 10, 'least', 'times'],
  switchAny: ["switch against this engine's LoRA, any width", 1, 'least', 'times'],
  layerTime: ['time of a layer with resident adapters, relative to LoRA', 0.78, 'most', 'times'],
  layerMemory: ['memory of resident adapters, relative to LoRA', 0.78, 'most', 'times'],
  fusedThroughput: ["tokens/s with one adapter fused, of the base's", 0.95, 'least', 'share'],
  mixedThroughput: ["tokens/s with 64 adapters in flight, of the base's", 0.85, 'least', 'share'],
  loadErrors: ['requests under load that failed', 0, 'most', 'count'],
  loadPages: ['pages still held after load', 0, 'most', 'count'],
  loadMemory: ['memory of the idle server after load, of that before', 1.1, 'most', 'times'],
  realBest: ["speed on real data against PEFT's LoRA at its best", 2.2, 'least', 'times'],
} as const

export type Goal = keyof typeof goals

export function judge(
  goal: Goal,
  where: string,
  measured: number,
  range: Target['range'] = null,
): Target {
  const [what, target, bound, unit] = goals[goal]
  const met = bound === 'least' ? measured >= target : measured <= target
  return { what, where, measured, range, target, bound, unit, met }
}
