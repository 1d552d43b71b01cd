// A progress bar on stderr; where stderr is no terminal, a line now and then.
import { SingleBar } from 'cli-progress'
import { duration } from '../report/format.js'

const SECONDS_BETWEEN_LINES = 10

/** Shows how far a task is. One at a time; `stop` it before other output goes to stderr. */
export class Progress {
  private bar: SingleBar | undefined
  private started = performance.now()
  private first = 0
  private lastLine = 0
  private readonly terminal = process.stderr.isTTY === true

  /** `label` is shown in front; `quiet` shows nothing at all. */
  constructor(
    private readonly label: string,
    private readonly quiet = false,
  ) {}

  /** Starts over at `done` of `total`; time left is estimated from here on. */
  start(total: number, done = 0): void {
    this.started = performance.now()
    this.first = done
    this.lastLine = this.started
    if (this.quiet || !this.terminal) return
    this.bar = new SingleBar({
      stream: process.stderr,
      format: `${this.label} {bar} {value}/{total}  {status}  {left} left`,
      barsize: 24,
      hideCursor: true,
      clearOnComplete: false,
      gracefulExit: false,
      fps: 5,
    })
    this.bar.start(total, done, { status: '', left: '?' })
  }

  /** `status` is what is measured so far, e.g. `loss 1.23`. */
  update(done: number, total: number, status: string): void {
    if (this.quiet) return
    const now = performance.now()
    const each = (now - this.started) / Math.max(1, done - this.first)
    const left = duration(((total - done) * each) / 1000)
    if (this.bar) {
      this.bar.update(done, { status, left })
    } else if (done >= total || now - this.lastLine > 1000 * SECONDS_BETWEEN_LINES) {
      this.lastLine = now
      process.stderr.write(`${this.label} ${done}/${total}  ${status}  ${left} left\n`)
    }
  }

  /** Prints a remark above the bar. */
  note(text: string): void {
    if (this.quiet) return
    if (!this.bar) {
      process.stderr.write(`${text}\n`)
      return
    }
    process.stderr.write(`\r\u001b[K${text}\n`)
    this.bar.render()
  }

  stop(): void {
    this.bar?.stop()
    this.bar = undefined
  }
}
