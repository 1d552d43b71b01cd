// Texts to tokens: short ones at once, long ones in a thread that is started when first needed,
// because some texts take a second for every 100,000 characters.
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { encodeOpen } from '../data/encode-row.js'
import { S2FTError } from '../errors.js'
import { packageRoot } from '../native/load.js'
import type { Tokenizer } from '../tokenizer/index.js'
import type { EncodeReply } from './encode-messages.js'
import { badRequest } from './http-error.js'

/** Characters that are encoded while everything else waits. */
const SHORT = 2048

interface Waiting {
  resolve(tokens: number[]): void
  reject(error: Error): void
}

export class Encoder {
  private thread: Worker | undefined
  private readonly waiting = new Map<number, Waiting>()
  private nextId = 0

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly contextLength: number,
  ) {}

  /**
   * Ids of a text to be continued, or (`open` false) of one that writes its own special tokens.
   * Refuses, without looking for tokens, what cannot fit into the context; `field` is named then.
   */
  async encode(text: string, open: boolean, field: string): Promise<number[]> {
    const { longestToken } = this.tokenizer
    const most = this.contextLength * longestToken
    if (text.length > most) {
      throw badRequest(
        `${field}: expected at most ${this.contextLength} tokens, found ${text.length} ` +
          `characters, more than these can hold (${most})`,
        field,
        'context_length_exceeded',
      )
    }
    if (text.length > SHORT) return this.inThread(text, open)
    if (open) return encodeOpen(this.tokenizer, text)
    return this.tokenizer.encode(text, { addSpecialTokens: false })
  }

  async dispose(): Promise<void> {
    await this.thread?.terminate()
  }

  private inThread(text: string, open: boolean): Promise<number[]> {
    const thread = (this.thread ??= this.start())
    const id = this.nextId++
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject })
      thread.postMessage({ id, text, open })
    })
  }

  private start(): Worker {
    const script = join(packageRoot, 'dist', 'serve', 'encode-thread.js')
    const thread = new Worker(script, { workerData: this.tokenizer.directory, execArgv: [] })
    thread.unref()
    thread.on('message', (reply: EncodeReply) => {
      const waiting = this.waiting.get(reply.id)
      this.waiting.delete(reply.id)
      if ('tokens' in reply) waiting?.resolve(reply.tokens)
      else waiting?.reject(new S2FTError('INVALID_DATA', reply.message))
    })
    const lost = (cause?: unknown) => {
      this.thread = undefined
      const error = new S2FTError('INTERNAL', 'the thread that encodes texts ended', { cause })
      for (const { reject } of this.waiting.values()) reject(error)
      this.waiting.clear()
    }
    thread.on('error', lost)
    thread.on('exit', () => lost())
    return thread
  }
}
