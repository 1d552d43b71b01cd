// Runs one benchmark case in a process of its own and reads the JSON line it ends with.
import { spawn } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { S2FTError } from '../errors.js'

/** A child process to start. */
export interface ChildCommand {
  file: string
  args: string[]
  env: NodeJS.ProcessEnv
}

/** The command that runs a script of this folder in a process of its own. */
export function ownScript(name: string, spec: object): ChildCommand {
  const script = join(dirname(fileURLToPath(import.meta.url)), name)
  return {
    file: process.execPath,
    args: ['--expose-gc', script, JSON.stringify(spec)],
    env: process.env,
  }
}

/**
 * The last line of the child's stdout, parsed. `name` is the case's in errors.
 * @throws S2FTError INTERNAL with the end of the child's stderr when it fails, IO when it cannot
 * be started, CANCELLED
 */
export async function runChild<T>(
  name: string,
  { file, args, env }: ChildCommand,
  signal?: AbortSignal,
): Promise<T> {
  const child = spawn(file, args, {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(signal && { signal }),
  })
  let out = ''
  let errors = ''
  child.stdout.on('data', (data: Buffer) => (out += data))
  child.stderr.on('data', (data: Buffer) => (errors = (errors + data).slice(-4000)))
  const status = await new Promise<string | number>((resolve, reject) => {
    child.on('error', (cause) => {
      const code = cause.name === 'AbortError' ? 'CANCELLED' : 'IO'
      reject(new S2FTError(code, `${name}: ${file}: ${cause.message}`, { cause }))
    })
    child.on('close', (code, killed) => resolve(code ?? killed ?? 'unknown'))
  })
  const why = () => errors.trim().split('\n').slice(-12).join(' | ')
  if (status !== 0) {
    throw new S2FTError('INTERNAL', `case ${name} ended with status ${status}: ${why()}`)
  }
  const last = out.trim().split('\n').at(-1)!
  try {
    return JSON.parse(last) as T
  } catch (cause) {
    const message = `case ${name}: expected a JSON line at its end, found '${last.slice(0, 200)}': ${why()}`
    throw new S2FTError('INTERNAL', message, { cause })
  }
}
