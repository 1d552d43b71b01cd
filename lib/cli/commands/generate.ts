// s2ft generate: continues a prompt, streaming to stdout.
import type { Command } from 'commander'
import type { ChatMessage, GenerateOptions, Prompt } from '../../model/types.js'
import type { Quantization } from '../../native/binding.js'
import { type CommonOptions, makeCommand, quantizeOption, valued } from '../common.js'
import { interruptSignal, loadModel } from '../load.js'
import { type Output, usage } from '../output.js'
import { type AdapterChoice, adapters, collect, integer, number } from '../parse.js'

interface Options {
  model: string
  quantize?: Quantization
  adapter?: AdapterChoice[]
  prompt: string
  system?: string
  raw: boolean
  force: boolean
  maxNewTokens: number
  temperature: number
  topK: number
  topP: number
  minP: number
  repetitionPenalty: number
  seed: number
  stop?: string[]
}

export function generateCommand(): Command {
  return makeCommand<Options>(
    'generate',
    'Continues a prompt and streams the text to stdout.',
    (command) =>
      command
        .requiredOption('--model <dir>', 'base model: a Hugging Face directory')
        .requiredOption('--prompt <text>', 'what to answer; - reads it from stdin')
        .addOption(
          valued(
            '--adapter <dir>',
            'adapter to fuse first, or <dir>=<weight>; repeatable',
            adapters,
          ),
        )
        .option('--system <text>', 'system message, for models with a chat template')
        .option('--raw', 'continue the prompt as it is, without the chat template', false)
        .addOption(quantizeOption())
        .addOption(valued('--max-new-tokens <n>', 'tokens at most', integer({ min: 1 }), 256))
        .addOption(
          valued('--temperature <t>', '0 always takes the likeliest token', number({ min: 0 }), 0),
        )
        .addOption(
          valued('--top-k <n>', 'only the n likeliest tokens; 0: all', integer({ min: 0 }), 0),
        )
        .addOption(
          valued(
            '--top-p <p>',
            'only the likeliest tokens that hold this share',
            number({ above: 0, max: 1 }),
            1,
          ),
        )
        .addOption(
          valued(
            '--min-p <p>',
            'only tokens with this share of the likeliest one',
            number({ min: 0, max: 1 }),
            0,
          ),
        )
        .addOption(
          valued(
            '--repetition-penalty <x>',
            'divides the scores of tokens already seen',
            number({ above: 0 }),
            1,
          ),
        )
        .addOption(
          valued('--seed <n>', 'the same seed gives the same text', integer({ min: 0 }), 0),
        )
        .addOption(valued('--stop <text>', 'end before this text, repeatable', collect))
        .option('--force', 'fuse although the adapter was trained on another base', false),
    run,
  )
}

async function readStdin(): Promise<string> {
  let text = ''
  for await (const chunk of process.stdin.setEncoding('utf8')) text += chunk
  return text.replace(/\r?\n$/, '')
}

async function run(options: Options & CommonOptions, out: Output): Promise<void> {
  const text = options.prompt === '-' ? await readStdin() : options.prompt
  if (text === '') throw usage("option '--prompt': expected text, found none")
  if (options.raw && options.system !== undefined) {
    throw usage("options '--raw' and '--system' exclude each other")
  }
  await using model = await loadModel(options)
  const tokenizer = await model.tokenizer()
  if (options.system !== undefined && !tokenizer.hasChatTemplate) {
    throw usage(`option '--system': the model in ${options.model} has no chat template`)
  }
  const messages: ChatMessage[] = [
    ...(options.system === undefined ? [] : [{ role: 'system', content: options.system }]),
    { role: 'user', content: text },
  ]
  const prompt: Prompt = options.raw || !tokenizer.hasChatTemplate ? text : messages
  const { maxNewTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop } = options
  const interrupt = interruptSignal(() => {})
  const settings: GenerateOptions = {
    ...{ maxNewTokens, temperature, topK, topP, minP, repetitionPenalty, seed },
    ...(stop && { stop }),
    signal: interrupt.signal,
  }
  const start = performance.now()
  const events = model.generate(prompt, settings)
  for (;;) {
    const next = await events.next()
    if (!next.done) {
      out.event({ type: 'token', ...next.value })
      out.text(next.value.text)
      continue
    }
    const seconds = (performance.now() - start) / 1000
    const { tokens, ...result } = next.value
    const speed = { tokens: tokens.length, seconds, tokensPerSecond: tokens.length / seconds }
    out.event({ type: 'result', ...result, ...speed })
    out.line()
    if (result.finishReason === 'abort') process.exitCode = interrupt.status
    break
  }
  interrupt.stop()
}
