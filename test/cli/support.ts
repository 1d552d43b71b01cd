// Runs the built command line as users do: in a process of its own.
import { spawn, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { writeRandomModel } from '../../lib/bench/random-model.js'
import { type ShapeConfig, shapes } from '../../lib/bench/shapes.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
export const mainScript = join(root, 'dist', 'cli', 'main.js')
export const tinyModel = join(root, 'models', 'tiny')

export interface Ran {
  status: number | null
  stdout: string
  stderr: string
}

/** Runs `s2ft` to its end. */
export function s2ft(args: string[], options: { input?: string; env?: object } = {}): Ran {
  const { status, stdout, stderr } = spawnSync(process.execPath, [mainScript, ...args], {
    encoding: 'utf8',
    env: { ...process.env, S2FT_DEBUG: '', NO_COLOR: '1', ...options.env },
    input: options.input ?? '',
  })
  return { status, stdout, stderr }
}

/** Starts `s2ft` and leaves it running. */
export function start(args: string[]) {
  return spawn(process.execPath, [mainScript, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Exactly one line on stderr with this code, nothing on stdout, and its exit status. */
export function expectError(ran: Ran, code: string, message: RegExp): void {
  expect(ran.stderr).toMatch(/^s2ft: error \[[A-Z_]+\] [^\n]+\n$/)
  expect(ran.stderr).toContain(`[${code}]`)
  expect(ran.stderr).toMatch(message)
  expect(ran.stdout).toBe('')
  expect(ran.status).toBe(code === 'USAGE' ? 2 : 1)
}

/** Every line of stdout as a JSON object. */
export function jsonLines(ran: Ran): Record<string, unknown>[] {
  expect(ran.status, ran.stderr).toBe(0)
  const lines = ran.stdout.split('\n')
  expect(lines.pop()).toBe('')
  return lines.map((line) => {
    const value = JSON.parse(line)
    expect(value).toBeTypeOf('object')
    return value
  })
}

const shape: ShapeConfig = {
  ...shapes['smollm2-135m']!,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 640,
}

/** Makes `directory` a random model of a few thousand weights with the tiny model's tokenizer. */
export async function makeModel(directory: string): Promise<string> {
  await writeRandomModel(directory, shape, 'f32')
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(join(tinyModel, name), join(directory, name))
  }
  return directory
}

/** What tests that need the tiny model's tokenizer skip by. */
export const hasTokenizer = existsSync(join(tinyModel, 'tokenizer.json'))
