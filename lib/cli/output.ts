// Where commands print: results on stdout, everything else on stderr; with --json stdout
// carries nothing but one JSON object a line.
import { appendFileSync, writeSync } from 'node:fs'
import { currentJob } from '../distributed/current.js'
import { S2FTError } from '../errors.js'

const EXIT_BROKEN_PIPE = 141

/** Ends the process as a C program would when whoever reads its output goes away. */
export function exitOnBrokenPipe(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      process.exit(error.code === 'EPIPE' ? EXIT_BROKEN_PIPE : 1)
    })
  }
}

/** What every command prints through. */
export class Output {
  private file: string | undefined
  private first: object | undefined
  private muted = false

  constructor(readonly json: boolean) {}

  /**
   * From now on events and what is kept are appended to `file`, with --json or without; `first`
   * goes before them once there is one.
   */
  keepIn(file: string, first: object): void {
    this.file = file
    this.first = first
  }

  /** From now on nothing is printed; errors still are. */
  mute(): void {
    this.muted = true
  }

  get silent(): boolean {
    return this.muted
  }

  /** One JSON object on a line of its own; only with --json. */
  event(value: object): void {
    if (this.json && !this.muted) process.stdout.write(`${JSON.stringify(value)}\n`)
    this.keep(value)
  }

  /** One JSON object for the file alone. */
  keep(value: object): void {
    if (this.file === undefined) return
    const line = `${JSON.stringify(value)}\n`
    const first = this.first ? `${JSON.stringify(this.first)}\n` : ''
    this.first = undefined
    appendFileSync(this.file, first + line)
  }

  /** A line for people on stdout; nothing with --json. */
  line(text = ''): void {
    if (!this.json && !this.muted) process.stdout.write(`${text}\n`)
  }

  /** Text for people on stdout, without a line break. */
  text(text: string): void {
    if (!this.json && !this.muted) process.stdout.write(text)
  }

  /** A remark on stderr, in both modes. */
  note(text: string): void {
    if (!this.muted) process.stderr.write(`${text}\n`)
  }
}

/** Everything already given to stdout has reached the system; call before process.exit. */
export function flushed(): Promise<void> {
  return new Promise((resolve) => process.stdout.write('', () => resolve()))
}

/** A mistake in how the command line was called: exit status 2. */
export function usage(message: string): S2FTError {
  return new S2FTError('USAGE', message)
}

/** Prints the one-line error and returns the exit status that goes with it. */
export function reportError(error: unknown): number {
  const code = errorCode(error)
  const text = error instanceof Error ? error.message : String(error)
  const job = currentJob()
  const who = job ? `rank ${job.rank}: ` : ''
  const line = who + text.trim().replace(/\s*\n\s*/g, ' ')
  writeSync(2, `s2ft: error [${code}] ${line}\n`)
  if (process.env.S2FT_DEBUG === '1' && error instanceof Error) {
    writeSync(2, `${error.stack}\n`)
    if (error.cause instanceof Error) writeSync(2, `caused by ${error.cause.stack}\n`)
  }
  return code === 'USAGE' ? 2 : 1
}

function errorCode(error: unknown): string {
  if (error instanceof S2FTError) return error.code
  if (error instanceof Error && typeof (error as NodeJS.ErrnoException).syscall === 'string') {
    return 'IO'
  }
  return 'INTERNAL'
}
