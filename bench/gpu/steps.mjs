// Steps of a run under one time limit: each one's output goes to the terminal and to a log.
import { spawnSync } from 'node:child_process'
import { appendFileSync, writeFileSync } from 'node:fs'
import { root } from '../../scripts/support/process.mjs'

export class Clock {
  constructor(seconds) {
    this.begun = performance.now()
    this.seconds = seconds
  }

  spent() {
    return (performance.now() - this.begun) / 1000
  }

  /** Seconds until the run should be over. */
  left() {
    return this.seconds - this.spent()
  }
}

export class Log {
  ran = 0
  failed = 0
  results = []

  constructor(file, clock) {
    this.file = file
    this.clock = clock
    writeFileSync(file, '')
  }

  note(text) {
    const line = `[${this.clock.spent().toFixed(0)} s] ${text}\n`
    process.stdout.write(line)
    appendFileSync(this.file, line)
  }

  /**
   * Runs a command until the time is up, or for `limit` seconds. One that fails is counted;
   * unless it may, it ends the run.
   */
  run(name, [command, ...args], { env = {}, mayFail = false, limit = Infinity } = {}) {
    this.note(name)
    const begun = this.clock.spent()
    const timeout = Math.ceil(Math.max(1, Math.min(limit, this.clock.left())) * 1000)
    const result = spawnSync(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      encoding: 'utf8',
      maxBuffer: 1 << 28,
      timeout,
    })
    const text = `${result.stdout ?? ''}${result.stderr ?? ''}${result.error?.message ?? ''}`
    process.stdout.write(text)
    appendFileSync(this.file, text)
    const ok = result.status === 0
    this.ran += 1
    if (!ok) this.failed += 1
    const seconds = this.clock.spent() - begun
    this.results.push({ name, ok, status: result.status ?? result.signal ?? 'none', seconds })
    this.note(`${name}: ${ok ? 'done' : 'FAILED'} in ${seconds.toFixed(1)} s`)
    if (!ok && !mayFail) {
      throw new Error(`${name} failed: the rest needs it (${this.file})`)
    }
  }
}
