// Runs one benchmark case in a process of its own and reads the JSON line it ends with.
import { spawn } from 'node:child_process'
import { S2FTError } from '../errors.js'

export interface Command {
  file: string
  args: string[]
  env: NodeJS.ProcessEnv
}

/**
 * The last line of the child's stdout, parsed. `name` is the case's in errors.
 * @throws S2FTError INTERNAL with the end of the child's stderr when it fails, IO when it cannot
 * be started, CANCELLED
 */
export async function runProcess(
  name: string,
  { file, args, env }: Command,
  signal?: AbortSignal,
): Promise<unknown> {
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
    return JSON.parse(last)
  } catch (cause) {
    const message = `case ${name}: expected a JSON line at its end, found '${last.slice(0, 200)}': ${why()}`
    throw new S2FTError('INTERNAL', message, { cause })
  }
}
