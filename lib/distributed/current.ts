// The job that this process has joined, for what must know of it without loading anything.

interface Joined {
  readonly rank: number
  readonly size: number
  abort(status: number): Promise<void>
}

let current: Joined | undefined

export function setCurrentJob(job: Joined): void {
  current = job
}

export function currentJob(): Joined | undefined {
  return current
}
