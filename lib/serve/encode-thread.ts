// A thread that encodes long texts with a tokenizer of its own, so that the server's answers to
// others go on meanwhile.
import { parentPort, workerData } from 'node:worker_threads'
import { encodeOpen } from '../data/encode-row.js'
import { Tokenizer } from '../tokenizer/index.js'
import type { EncodeJob, EncodeReply } from './encode-messages.js'

const loading = Tokenizer.load(workerData as string)

parentPort?.on('message', async ({ id, text, open }: EncodeJob) => {
  let reply: EncodeReply
  try {
    const tokenizer = await loading
    const tokens = open
      ? encodeOpen(tokenizer, text)
      : tokenizer.encode(text, { addSpecialTokens: false })
    reply = { id, tokens }
  } catch (error) {
    reply = { id, message: (error as Error).message }
  }
  parentPort?.postMessage(reply)
})
