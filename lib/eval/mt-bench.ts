// MT-Bench: answers to its questions, turn by turn, as the lines that FastChat's judge reads.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { alpacaPrompt, type DataRow, encodePrompt, type TemplateName } from '../data/index.js'
import { readValues } from '../data/read.js'
import { S2FTError } from '../errors.js'
import type { Model } from '../model/model.js'
import type { Tokenizer } from '../tokenizer/index.js'
import type { EvalOptions, EvalSample, MtBenchResult } from './types.js'
import { evaluateUnits, fileOrder, type Running } from './units.js'

const questionSchema = z.looseObject({
  question_id: z.number().int(),
  category: z.string(),
  turns: z.array(z.string()).min(1),
  required_temperature: z.number().nonnegative().optional(),
})

export type MtBenchQuestion = z.infer<typeof questionSchema> & { source: string }

/** FastChat's temperatures by category; other categories are answered at 0.7. */
const TEMPERATURES: Record<string, number> = {
  writing: 0.7,
  roleplay: 0.7,
  extraction: 0,
  math: 0,
  coding: 0,
  reasoning: 0,
  stem: 0.1,
  humanities: 0.1,
}
const OTHER_TEMPERATURE = 0.7

export function temperatureOf(question: MtBenchQuestion): number {
  return question.required_temperature ?? TEMPERATURES[question.category] ?? OTHER_TEMPERATURE
}

/** Reads FastChat's question file. Throws INVALID_DATA naming the line, IO. */
export async function loadMtBench(file: string, limit?: number): Promise<MtBenchQuestion[]> {
  const questions: MtBenchQuestion[] = []
  const seen = new Set<number>()
  for await (const item of readValues(file)) {
    if (questions.length === limit) break
    const { source } = item
    const expected = 'expected question_id, category and turns'
    if (item.kind !== 'value') {
      const found = item.kind === 'broken' ? item.problem : 'text'
      throw new S2FTError('INVALID_DATA', `${source}: ${expected}, found ${found}`)
    }
    const parsed = questionSchema.safeParse(item.value)
    if (!parsed.success) {
      const { path, message } = parsed.error.issues[0]!
      throw new S2FTError('INVALID_DATA', `${source}: ${expected}: ${path.join('.')}: ${message}`)
    }
    const { question_id } = parsed.data
    if (seen.has(question_id)) {
      throw new S2FTError('INVALID_DATA', `${source}: question_id ${question_id} is there twice`)
    }
    seen.add(question_id)
    questions.push({ ...parsed.data, source })
  }
  return questions
}

export interface MtBenchOptions extends EvalOptions {
  /** Name of the model in the answer lines. */
  modelId: string
  /** Of the sampling. Default 0. */
  seed?: number
}

/**
 * The conversation up to the next answer. A model without chat template gets the training prompt
 * again behind its earlier answer.
 */
export function turnPrompt(
  question: MtBenchQuestion,
  answers: readonly string[],
  tokenizer: Tokenizer,
  template: TemplateName,
): { row: DataRow; template: TemplateName } {
  const turns = question.turns.slice(0, answers.length + 1)
  const { source } = question
  if (template === 'chat' || (template === 'auto' && tokenizer.hasChatTemplate)) {
    const messages = turns.flatMap((content, i) => [
      { role: 'user', content },
      ...(i < answers.length ? [{ role: 'assistant', content: answers[i]! }] : []),
    ])
    return { row: { kind: 'messages', messages, trainFrom: 0, source }, template: 'chat' }
  }
  const asked = turns.map((turn, i) => {
    if (template === 'none') return `${turn}\n`
    return i === 0 ? alpacaPrompt(turn) : `### Instruction:\n${turn}\n\n### Response:\n`
  })
  const prompt = asked.reduce((before, turn, i) => `${before}${answers[i - 1]}\n\n${turn}`)
  return { row: { kind: 'prompt', prompt, completion: '', source }, template: 'none' }
}

/** Keeps the random numbers of units and turns apart. */
function callSeed(seed: number, first: number, turn: number): number {
  return (seed * 1_000_003 + first * 101 + turn) % 2 ** 32
}

class RunningCount implements Running {
  private count = 0

  add(): void {
    this.count++
  }

  text(): string {
    return `${this.count} answered`
  }
}

/**
 * Answers every turn of every question, sampling at its category's temperature. Each sample
 * holds the keys of FastChat's answer lines: see `answerLine`.
 */
export async function evaluateMtBench(
  model: Model,
  questions: readonly MtBenchQuestion[],
  options: MtBenchOptions,
): Promise<MtBenchResult> {
  const tokenizer = await model.tokenizer()
  const { modelId, seed = 0, batchSize, maxNewTokens, signal } = options
  const answerTurn = async (indices: number[], turn: number, answers: Map<number, string[]>) => {
    const prompts = indices.map((i) => {
      const { row, template } = turnPrompt(
        questions[i]!,
        answers.get(i)!,
        tokenizer,
        options.template,
      )
      return encodePrompt(row, tokenizer, { template }).tokens
    })
    const results = await model.generateBatch(prompts, {
      slots: batchSize,
      maxNewTokens,
      temperature: temperatureOf(questions[indices[0]!]!),
      seed: callSeed(seed, indices[0]!, turn),
      ...(signal && { signal }),
    })
    for (const [k, { text, finishReason }] of results.entries()) {
      if (finishReason !== 'abort') answers.get(indices[k]!)!.push(text.trim())
    }
  }
  const units = {
    order: fileOrder(questions.length),
    size: batchSize,
    running: new RunningCount(),
    evaluate: async (unit: number[], finished: (sample: EvalSample) => void) => {
      const answers = new Map(unit.map((i): [number, string[]] => [i, []]))
      const turns = Math.max(...unit.map((i) => questions[i]!.turns.length))
      for (let turn = 0; turn < turns && !signal?.aborted; turn++) {
        const open = unit.filter((i) => turn < questions[i]!.turns.length)
        const temperatures = new Set(open.map((i) => temperatureOf(questions[i]!)))
        for (const temperature of temperatures) {
          const alike = open.filter((i) => temperatureOf(questions[i]!) === temperature)
          if (!signal?.aborted) await answerTurn(alike, turn, answers)
        }
      }
      for (const [index, texts] of answers) {
        const question = questions[index]!
        if (texts.length === question.turns.length) {
          finished(answerOf(index, question, modelId, texts))
        }
      }
    },
  }
  const samples = await evaluateUnits(units, options)
  const categories: Record<string, number> = {}
  for (const { category } of questions) categories[category] = (categories[category] ?? 0) + 1
  return { task: 'mt-bench', modelId, count: samples.length, categories }
}

function answerOf(
  index: number,
  { question_id, source }: MtBenchQuestion,
  model_id: string,
  turns: string[],
): EvalSample {
  const hash = createHash('sha256').update(JSON.stringify([model_id, question_id, turns]))
  const answer_id = hash.digest('hex').slice(0, 22)
  const choices = [{ index: 0, turns }]
  return { index, source, question_id, answer_id, model_id, choices, tstamp: Date.now() / 1000 }
}

/** A sample as a line of FastChat's model_answer file. */
export function answerLine({ index: _, source: __, ...answer }: EvalSample): object {
  return answer
}

/** The sample of an answer line. Throws INVALID_DATA when no question has its id. */
export function answeredSample(
  line: Record<string, unknown>,
  questions: readonly MtBenchQuestion[],
): EvalSample {
  const index = questions.findIndex(({ question_id }) => question_id === line.question_id)
  if (index < 0) {
    throw new S2FTError(
      'INVALID_DATA',
      `answer line: expected the question_id of a question, found ${JSON.stringify(line.question_id)}`,
    )
  }
  return { index, source: questions[index]!.source, ...line }
}
