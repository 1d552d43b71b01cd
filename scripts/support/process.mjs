// Running other programs: output passed through or captured, and errors people can read.
import { spawnSync } from 'node:child_process'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's root folder. */
export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

/** Prints a message to stderr and ends the process: for mistakes a person can mend. */
export function fail(message) {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}

/**
 * Runs a program with its output on this terminal; returns its exit status (127 when it is
 * not installed, 128 + n when a signal ended it).
 */
export function run(command, args, options = {}) {
  const result = spawnSync(command, args, { stdio: 'inherit', cwd: root, ...options })
  if (result.error) return 127
  return result.status ?? 128
}

/** Runs a program; ends this process with the same status when it fails. */
export function mustRun(command, args, options = {}) {
  const status = run(command, args, options)
  if (status === 127) fail(`${command} could not be started: is it installed?`)
  if (status !== 0) process.exit(status)
}

/** Runs a program and returns { status, stdout, stderr } as text. */
export function capture(command, args, options = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    ...options,
  })
  return {
    status: result.error ? 127 : (result.status ?? 128),
    stdout: result.stdout ?? '',
    stderr: result.stderr ?? '',
  }
}

/** True when a program answers `--version`. */
export function installed(command) {
  return capture(command, ['--version']).status === 0
}
