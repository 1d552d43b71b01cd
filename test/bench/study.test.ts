// s2ft bench study on the tiny model: end to end, stopped and resumed, and how it scores.
import { spawn } from 'node:child_process'
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Adapter, lora, loreft, Model, s2ft, Trainer } from '../../lib/index.js'
import { caseKey, type FusionCase } from '../../lib/study/cases.js'
import { loadStudyData, studyFiles } from '../../lib/study/data.js'
import { scaledAdapter } from '../../lib/study/fusion.js'
import type { CaseLine, FailureLine } from '../../lib/study/lines.js'
import { scoreChoice, scoreLoss, scoreSets } from '../../lib/study/score.js'
import { studySettings } from '../../lib/study/settings.js'
import { componentRatios } from '../../lib/study/variants.js'
import { expectError, mainScript, s2ft as run, tinyModel } from '../cli/support.js'
import { temporaryDirectory } from '../support/directories.js'
import { studyDataFolder } from './study-data.js'

const data = studyDataFolder()
const settings = studySettings('quick')

function study(output: string, ...more: string[]): string[] {
  const call = ['bench', 'study', '--model', tinyModel, '--data', data, '--output', output]
  return [...call, '--quick', '--threads', '1', ...more]
}

function lines(output: string): Record<string, unknown>[] {
  const text = readFileSync(join(output, 'results.jsonl'), 'utf8')
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}

const ofType = <T>(output: string, type: string) =>
  lines(output).filter((line) => line.type === type) as T[]
const cases = (output: string) => ofType<CaseLine>(output, 'case')

/** What a case found, without how long it took. */
function found(line: CaseLine) {
  const { seconds, trainSeconds, ...rest } = line
  return rest
}

const few = ['--only', 'components,seeds', '--seeds', '2']

describe('the command', () => {
  const whole = join(temporaryDirectory(), 'whole')

  test('runs to its end and writes both reports', () => {
    const ran = run(study(whole, ...few))
    expect(ran.stderr).not.toMatch(/failed/)
    expect(ran.status).toBe(0)
    const [first, second] = lines(whole)
    expect(first).toMatchObject({ type: 'study', device: 'cpu', settings: { preset: 'quick' } })
    expect(second).toMatchObject({ type: 'run', version: expect.any(String) })
    const keys = cases(whole).map(({ key }) => key)
    expect(new Set(keys).size).toBe(keys.length)
    for (const line of cases(whole)) {
      expect(line).toMatchObject({ diverged: false, steps: 2 })
      expect(line.trainable).toBeGreaterThan(0)
    }
    const markdown = readFileSync(join(whole, 'study.md'), 'utf8')
    for (const title of ['What was run', 'Learning rates', 'Which modules', 'Seeds']) {
      expect(markdown).toContain(`\n## ${title}\n`)
    }
    expect(markdown).toContain('| q, k, v, o, gate, up, down |')
    const html = readFileSync(join(whole, 'report.html'), 'utf8')
    for (const text of [markdown, html]) expect(text).not.toMatch(/NaN|undefined|Infinity/)
    const figures = html.match(/<figure>/g)!.length
    expect(figures).toBeGreaterThan(3)
    expect(html.match(/<svg role="img" aria-label="[^"]{20,}"/g)).toHaveLength(figures)
  })

  test('killed again and again it ends with the same results', async () => {
    const output = join(temporaryDirectory(), 'killed')
    const args = study(output, ...few)
    for (let i = 1; i <= 3; i++) {
      const child = spawn(process.execPath, [mainScript, ...args], { stdio: 'ignore' })
      const ended = new Promise((resolve) => child.on('close', resolve))
      const enough = () =>
        existsSync(join(output, 'results.jsonl')) && cases(output).length >= 4 * i
      while (child.exitCode === null && !enough()) await new Promise((go) => setTimeout(go, 5))
      child.kill('SIGKILL')
      await ended
    }
    expect(cases(output).length).toBeLessThan(cases(whole).length)
    // A write that was broken off.
    appendFileSync(join(output, 'results.jsonl'), '{"type":"case","key":"math s2')
    expect(run(args).status).toBe(0)
    expect(cases(output).map(found)).toEqual(cases(whole).map(found))
    // Nothing is left to do: no line is added.
    const before = lines(output).length
    expect(run(args).status).toBe(0)
    expect(lines(output)).toHaveLength(before)
  })

  test('Ctrl-C ends with status 130 and a report of what is done', async () => {
    const output = join(temporaryDirectory(), 'interrupted')
    const child = spawn(process.execPath, [mainScript, ...study(output, ...few, '--json')])
    let out = ''
    child.stdout.on('data', (chunk) => {
      out += chunk
      if (!child.killed && out.includes('"type":"case"')) child.kill('SIGINT')
    })
    const status = await new Promise((resolve) => child.on('close', resolve))
    expect(status).toBe(130)
    expect(JSON.parse(out.trim().split('\n').at(-1)!)).toEqual({ type: 'interrupted', output })
    expect(cases(output).length).toBeLessThan(cases(whole).length)
    expect(readFileSync(join(output, 'study.md'), 'utf8')).toContain('## What was run')
  })

  test('begins no case when time is up, and says what is left', () => {
    const output = join(temporaryDirectory(), 'short')
    const ran = run(study(output, ...few, '--minutes', '0.000001', '--json'))
    expect(ran.status).toBe(0)
    expect(JSON.parse(ran.stdout.trim().split('\n').at(-1)!)).toMatchObject({
      ...{ type: 'progress', done: 0 },
      left: expect.any(Number),
    })
    expect(cases(output)).toEqual([])
    expect(existsSync(join(output, 'study.md'))).toBe(true)
  })

  test('trains and fuses by every method, and nothing fails', () => {
    const output = join(temporaryDirectory(), 'all')
    const ran = run(study(output, '--seeds', '2'))
    expect(ofType<FailureLine>(output, 'failure')).toEqual([])
    expect(ran.status).toBe(0)
    const known = new Set(cases(output).map(({ key }) => key.replace(/ rate.*/, '')))
    for (const track of ['math', 'commonsense']) {
      for (const method of [
        's2ft',
        'lora',
        'dora',
        'loreft',
        'sparse random',
        'lisa',
        'galore',
        'full',
      ]) {
        expect(known).toContain(`${track} ${method}`)
      }
    }
    const fused = cases(output).filter(({ kind }) => kind === 'fusion')
    expect(fused.some(({ key }) => key.startsWith('fusion lora math 1 + commonsense 1'))).toBe(true)
    for (const { scores } of fused) {
      expect(Object.keys(scores)).toContain('gsm8k held out')
      expect(Object.keys(scores)).toContain('piqa')
    }
    const markdown = readFileSync(join(output, 'study.md'), 'utf8')
    expect(markdown).toContain('difference from base')
    expect(markdown).toMatch(/Of \d+ differences \d+ have/)
  })

  test('results of other settings are not mixed, nor is another file taken for results', () => {
    const ran = run([...study(whole, ...few), '--dtype', 'f32'])
    expectError(ran, 'INVALID_ARGUMENT', /holds a study with dtype "bf16", found "f32"/)
    const output = temporaryDirectory()
    writeFileSync(join(output, 'results.jsonl'), 'my notes\n')
    expectError(run(study(output)), 'CORRUPT_FILE', /results.jsonl:1: expected a line of a study/)
    expect(readFileSync(join(output, 'results.jsonl'), 'utf8')).toBe('my notes\n')
  })

  test('missing data is named before anything is trained', () => {
    const call = ['bench', 'study', '--model', tinyModel, '--output', temporaryDirectory()]
    expectError(run([...call, '--data', '/no/such']), 'IO', /math\/gsm8k-train.jsonl/)
    expectError(run([...study('x'), '--only', 'all']), 'USAGE', /methods, selection/)
  })
})

describe('data', () => {
  test('rows that train, that validate and that are held out are apart', async () => {
    await using model = await Model.load(tinyModel)
    const loaded = await loadStudyData(data, await model.tokenizer(), settings)
    const heldOut = loaded.tests.get('gsm8k held out')!.loss!
    const parts = [loaded.train.math, loaded.validation.math, heldOut]
    const sources = parts.flat().map(({ source }) => source)
    expect(parts.map((part) => part.length)).toEqual([8, 2, 3])
    expect(new Set(sources).size).toBe(sources.length)
    for (const file of studyFiles(data)) expect(existsSync(file)).toBe(true)
    const again = await loadStudyData(data, await model.tokenizer(), settings)
    expect(again.fingerprint).toBe(loaded.fingerprint)
  })
})

describe('scores', () => {
  test('are the model’s own losses, whatever they are scored with', async () => {
    await using model = await Model.load(tinyModel, { dtype: 'f32' })
    const { tests, train } = await loadStudyData(data, await model.tokenizer(), settings)
    const losses = await scoreLoss(model, train.math)
    for (const [i, sample] of train.math.entries()) {
      expect(losses[i]).toBeCloseTo((await model.loss([sample])).loss, 4)
    }
    const scores = await scoreSets(model, tests, ['gsm8k', 'boolq', 'text'], settings, {
      generate: true,
    })
    expect(scores.gsm8k!.answered).toHaveLength(1)
    expect(scores.boolq!.choiceLoss).toHaveLength(3)
    expect(scores.text!.loss).toHaveLength(2)
  })

  // LoReFT's forward pass depends on where a prompt ends.
  test.each([
    ['the base', undefined],
    ['LoReFT', loreft({ r: 2 })],
  ])('of options are those of options scored one by one, by %s', async (_, method) => {
    await using model = await Model.load(tinyModel, { dtype: 'f32' })
    const { tests, train } = await loadStudyData(data, await model.tokenizer(), settings)
    if (method) {
      await using trainer = new Trainer(model, { method, learningRate: 1e-2 })
      for (let i = 0; i < 3; i++) await trainer.step(train.math)
      await model.fuse(await trainer.adapter())
    }
    for (const name of ['boolq', 'ARC-Easy', 'mmlu']) {
      const items = tests.get(name)!.choice!
      const { chosen, choiceLoss } = await scoreChoice(model, items)
      for (const [i, { options, gold }] of items.entries()) {
        const logProbs: number[] = []
        for (const option of options) {
          const [row] = await model.scoreBatch([option])
          logProbs.push(row!.reduce((sum, value) => sum + value, 0))
        }
        const total = logProbs.reduce((sum, value) => sum + Math.exp(value - logProbs[gold]!), 0)
        expect(choiceLoss[i]).toBeCloseTo(Math.log(total), 4)
        expect(chosen[i]).toBe(Math.max(...logProbs) === logProbs[gold] ? 1 : 0)
      }
    }
  })
})

describe('fusion and budgets', () => {
  test('adapters of another learning rate make another case', () => {
    const fusion = (learningRate: number): FusionCase => ({
      ...{ kind: 'fusion', family: 'lora', seed: 0 },
      parts: [{ track: 'math', weight: 1, learningRate, adapter: 'a' }],
    })
    expect(caseKey(fusion(1e-3))).not.toBe(caseKey(fusion(3e-3)))
  })

  test.each([
    ['s2ft', s2ft({ budget: { loraRank: 2 } })],
    ['lora', lora({ r: 2 })],
  ])('%s: half and half is the whole, and none is the base', async (_, method) => {
    await using model = await Model.load(tinyModel, { dtype: 'f32' })
    const { train } = await loadStudyData(data, await model.tokenizer(), settings)
    const before = await scoreLoss(model, train.math)
    let adapter: Adapter
    {
      await using trainer = new Trainer(model, { method, learningRate: 1e-2 })
      for (let i = 0; i < 3; i++) await trainer.step(train.math)
      adapter = await trainer.adapter()
    }
    await model.fuse(adapter)
    const whole = await scoreLoss(model, train.math)
    await model.unfuse(adapter)
    expect(whole).not.toEqual(before)
    await model.fuse(scaledAdapter(adapter, 0))
    expect(await scoreLoss(model, train.math)).toEqual(before)
    await model.fuse(scaledAdapter(adapter, 0.25))
    await model.fuse(scaledAdapter(adapter, 0.75))
    const parts = await scoreLoss(model, train.math)
    for (const [i, loss] of parts.entries()) expect(loss).toBeCloseTo(whole[i]!, 3)
  })

  test('components share LoRA’s budget', async () => {
    await using model = await Model.load(tinyModel)
    const config = model.config.native
    // LoRA of rank 1 on a layer has the sum of in and out over its seven modules.
    const perLayer = 2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 384)
    const { down } = componentRatios(config, 1, ['down'])
    expect(down! * 128 * 384).toBeCloseTo(perLayer, 6)
    const both = componentRatios(config, 1, ['q', 'k'])
    expect(both.q! * 128 * 128 + both.k! * 128 * 64).toBeCloseTo(perLayer, 6)
  })
})
