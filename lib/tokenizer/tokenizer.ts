// A Hugging Face tokenizer with its special tokens and chat template.
import { Tokenizer as Backend } from '@huggingface/tokenizers'
import { S2FTError } from '../errors.js'
import {
  type ChatMessage,
  ChatTemplate,
  type ChatTemplateOptions,
  findChatTemplate,
} from './chat-template.js'
import { compatibleTokenizer, namedToken } from './compat.js'
import { readTokenizerFiles, type TokenizerFiles } from './files.js'
import { TextStream } from './text-stream.js'
import { bytesOfSpelling } from './token-bytes.js'

export interface EncodeOptions {
  /** Adds what the tokenizer puts around a text, e.g. a leading `<s>`. Default true. */
  addSpecialTokens?: boolean
}

export interface DecodeOptions {
  /** Leaves special tokens out of the text. Default false. */
  skipSpecialTokens?: boolean
}

export interface TokenizerLoadOptions {
  /** The moment that templates with a date show; default: the time of loading. */
  now?: Date
}

const NAMED_TOKENS = ['bos_token', 'eos_token', 'pad_token', 'unk_token', 'sep_token', 'cls_token']

/**
 * Remembers the tokens of words. The library's own cache moves every word it finds to the end of
 * a map, which costs a quarter of the encoding time; this one is emptied when full.
 */
class WordCache {
  private readonly words = new Map<string, string[]>()

  get(word: string): string[] | undefined {
    return this.words.get(word)
  }

  put(word: string, tokens: string[]): void {
    if (this.words.size >= 50_000) this.words.clear()
    this.words.set(word, tokens)
  }

  clear(): void {
    this.words.clear()
  }
}

/** A value of eos_token_id: configs give a number or an array of numbers. */
function idList(value: unknown): number[] {
  const values = Array.isArray(value) ? value : [value]
  return values.filter((id): id is number => Number.isInteger(id) && (id as number) >= 0)
}

/** Text to token ids and back, exactly as tokenizer.json says (the Rust library's meaning). */
export class Tokenizer {
  /** Ids that end generation: generation_config.json, config.json and the eos_token together. */
  readonly eosTokenIds: number[]
  /** The id that training appends after a completion outside chat templates. */
  readonly eosTokenId: number | undefined
  readonly bosTokenId: number | undefined
  readonly padTokenId: number | undefined
  /** Highest token id plus one; a model's embedding may have more rows, never fewer. */
  readonly vocabSize: number
  /** Characters of the longest token: no text has more than its tokens times this. */
  readonly longestToken: number
  readonly hasChatTemplate: boolean
  private readonly special: Set<number>
  private readonly template: ChatTemplate | undefined
  private readonly added: Set<number>
  private readonly spelled: (spelling: string) => Uint8Array

  private constructor(
    private readonly backend: Backend,
    /** Where the tokenizer was loaded from. */
    readonly directory: string,
    files: TokenizerFiles,
    now: Date,
  ) {
    const names = NAMED_TOKENS.flatMap((name): [string, string][] => {
      const content = namedToken(files, name)
      return content === undefined ? [] : [[name, content]]
    })
    const named = Object.fromEntries(names)
    const idOf = (name: string) => {
      const content = named[name]
      const id = content === undefined ? undefined : backend.token_to_id(content)
      if (content !== undefined && id === undefined && name !== 'unk_token') {
        const path = `${directory}/tokenizer_config.json`
        throw new S2FTError(
          'INVALID_CONFIG',
          `${path}: ${name} is ${JSON.stringify(content)}, which tokenizer.json does not have`,
        )
      }
      return id
    }
    const configured = [files.generationConfig, files.modelConfig].map((c) =>
      idList(c.eos_token_id),
    )
    this.eosTokenId = idOf('eos_token') ?? configured.flat()[0]
    this.eosTokenIds = [...new Set([...configured.flat(), ...idList(this.eosTokenId)])]
    this.bosTokenId = idOf('bos_token')
    this.padTokenId = idOf('pad_token') ?? idList(files.modelConfig.pad_token_id)[0]
    let highest = -1
    let longest = 1
    for (const [spelling, id] of backend.get_vocab()) {
      highest = Math.max(highest, id)
      longest = Math.max(longest, spelling.length)
    }
    this.vocabSize = highest + 1
    this.longestToken = longest
    this.special = new Set(
      [...backend.get_added_tokens_decoder()].filter(([, t]) => t.special).map(([id]) => id),
    )
    this.added = new Set(backend.get_added_tokens_decoder().keys())
    this.spelled = bytesOfSpelling(files.tokenizer.decoder)
    const source = findChatTemplate(files)
    this.hasChatTemplate = source !== undefined
    if (source !== undefined) this.template = new ChatTemplate(source, directory, named, now)
  }

  /**
   * Loads tokenizer.json and the files beside it.
   * Throws IO (no tokenizer.json), CORRUPT_FILE (not JSON), UNSUPPORTED_MODEL, INVALID_CONFIG.
   */
  static async load(directory: string, options: TokenizerLoadOptions = {}): Promise<Tokenizer> {
    const files = await readTokenizerFiles(directory)
    let backend: Backend
    try {
      backend = new Backend(compatibleTokenizer(files), files.tokenizerConfig)
    } catch (cause) {
      if (cause instanceof S2FTError) throw cause
      throw new S2FTError(
        'UNSUPPORTED_MODEL',
        `${directory}/tokenizer.json: cannot be used: ${(cause as Error).message}`,
        { cause },
      )
    }
    const model = backend.model as unknown as { cache?: unknown }
    if (model.cache) model.cache = new WordCache()
    return new Tokenizer(backend, directory, files, options.now ?? new Date())
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const { ids } = this.backend.encode(text, {
      add_special_tokens: options.addSpecialTokens ?? true,
    })
    if (ids.some((id: number | undefined) => id === undefined)) {
      throw new S2FTError(
        'INVALID_DATA',
        `${this.directory}/tokenizer.json has no token for a part of ${JSON.stringify(text.slice(0, 80))}, and no unknown token`,
      )
    }
    return ids
  }

  /** Ids without a token (padding rows of the embedding) give no text, as in transformers. */
  decode(ids: readonly number[] | Int32Array, options: DecodeOptions = {}): string {
    const known: number[] = []
    for (const id of ids) {
      if (options.skipSpecialTokens && this.special.has(id)) continue
      if (this.backend.id_to_token(id) !== undefined) known.push(id)
    }
    if (known.length === 0) return ''
    return this.backend.decode(known, { clean_up_tokenization_spaces: false })
  }

  isSpecial(id: number): boolean {
    return this.special.has(id)
  }

  /** The token's text as the vocabulary spells it. */
  idToToken(id: number): string | undefined {
    return this.backend.id_to_token(id)
  }

  /**
   * The bytes that a token adds to a text: its part of a character where one is spread over several
   * tokens. Empty for ids without a token.
   */
  tokenBytes(id: number): Uint8Array {
    const spelling = this.backend.id_to_token(id)
    if (spelling === undefined) return new Uint8Array(0)
    return this.added.has(id) ? new TextEncoder().encode(spelling) : this.spelled(spelling)
  }

  tokenToId(token: string): number | undefined {
    return this.backend.token_to_id(token)
  }

  /**
   * The conversation as text; encode it with `addSpecialTokens: false`, because templates write
   * their own special tokens. Throws INVALID_CONFIG when the model has no chat template.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    if (!this.template) {
      throw new S2FTError(
        'INVALID_CONFIG',
        `${this.directory} has no chat template: expected chat_template.jinja or "chat_template" in tokenizer_config.json`,
      )
    }
    return this.template.render(messages, options)
  }

  /** A detokenizer for ids that arrive one by one; special tokens are left out by default. */
  stream(options: DecodeOptions = { skipSpecialTokens: true }): TextStream {
    return new TextStream(this, options)
  }
}
