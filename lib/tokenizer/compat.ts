// Makes a tokenizer.json mean in JavaScript what it means to the Rust tokenizers library:
// rewrites pre-tokenizers that @huggingface/tokenizers reads differently, refuses the rest.
import { S2FTError } from '../errors.js'
import type { JsonObject, TokenizerFiles } from './files.js'

/** Early files leave the type out; then it is BPE. */
const MODELS = ['BPE', 'Unigram', 'WordPiece']

function patternSource(pattern: unknown): string {
  const { String: literal, Regex: regex } = (pattern ?? {}) as { String?: string; Regex?: string }
  if (regex !== undefined) return regex
  return (literal ?? '').replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')
}

function isolated(regex: string): JsonObject {
  return { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false }
}

function rewritePreTokenizer(node: JsonObject, path: string): JsonObject {
  if (node.type === 'Sequence') {
    const children = (node.pretokenizers ?? []) as JsonObject[]
    const pretokenizers = children.map((child, i) => {
      // Rust puts the space before every piece, the JavaScript library before the first only.
      if (i > 0 && child.type === 'ByteLevel' && child.add_prefix_space === true) {
        throw new S2FTError(
          'UNSUPPORTED_MODEL',
          `${path}: pre_tokenizer ${i}: ByteLevel with add_prefix_space after another splitter is not supported`,
        )
      }
      return rewritePreTokenizer(child, path)
    })
    return { ...node, pretokenizers }
  }
  // Rust's digits are all of Unicode's numbers (², Ⅳ, ½), not only \d.
  if (node.type === 'Digits') return isolated(node.individual_digits ? '\\p{N}' : '\\p{N}+')
  if (node.type !== 'Split' || node.invert === true) return node
  const source = patternSource(node.pattern)
  switch (node.behavior) {
    case 'MergedWithPrevious':
      return isolated(`(?:[^\\n]|\\n)*?(?:${source})`)
    case 'MergedWithNext':
      return isolated(`(?:${source})(?:(?!${source})(?:[^\\n]|\\n))*`)
    case 'Contiguous':
      return isolated(`(?:${source})+`)
    case 'Removed':
      throw new S2FTError(
        'UNSUPPORTED_MODEL',
        `${path}: pre_tokenizer: Split with behavior "Removed" is not supported`,
      )
    default:
      return node
  }
}

/** The text of a special token, which configs give as a string or as an added-token object. */
export function tokenContent(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  const content = (value as { content?: unknown } | null | undefined)?.content
  return typeof content === 'string' ? content : undefined
}

/** The named special token ('bos_token', ...) of a directory, if it has one. */
export function namedToken(files: TokenizerFiles, name: string): string | undefined {
  if (name in files.tokenizerConfig) return tokenContent(files.tokenizerConfig[name])
  return tokenContent(files.specialTokensMap[name])
}

/** Adds the tokens that only tokenizer_config.json knows, as transformers does on loading. */
function mergeAddedTokens(files: TokenizerFiles): JsonObject[] {
  const added = [...((files.tokenizer.added_tokens ?? []) as JsonObject[])]
  const ids = new Set(added.map((token) => token.id))
  const decoder = (files.tokenizerConfig.added_tokens_decoder ?? {}) as Record<string, JsonObject>
  for (const [key, token] of Object.entries(decoder)) {
    const id = Number(key)
    if (!ids.has(id) && Number.isInteger(id) && id >= 0) added.push({ ...token, id })
  }
  return added
}

/** Builds the post-processor that explicit add_bos_token / add_eos_token settings ask for. */
function explicitPostProcessor(files: TokenizerFiles): JsonObject | undefined {
  const { add_bos_token: bos, add_eos_token: eos } = files.tokenizerConfig
  if (typeof bos !== 'boolean' && typeof eos !== 'boolean') return undefined
  const special = (wanted: unknown, name: string) => {
    const id = namedToken(files, name)
    return wanted === true && id !== undefined ? [{ SpecialToken: { id, type_id: 0 } }] : []
  }
  const head = special(bos, 'bos_token')
  const tail = special(eos, 'eos_token')
  const single = [...head, { Sequence: { id: 'A', type_id: 0 } }, ...tail]
  return { type: 'TemplateProcessing', single, pair: single, special_tokens: {} }
}

/** Returns the tokenizer.json to hand to @huggingface/tokenizers; `files` is left as it is. */
export function compatibleTokenizer(files: TokenizerFiles): JsonObject {
  const path = `${files.directory}/tokenizer.json`
  const { tokenizer } = files
  const type = (tokenizer.model as JsonObject | undefined)?.type ?? 'BPE'
  if (!MODELS.includes(String(type))) {
    throw new S2FTError(
      'UNSUPPORTED_MODEL',
      `${path}: model.type: expected ${MODELS.join(', ')}, found ${JSON.stringify(type)}`,
    )
  }
  const result: JsonObject = { normalizer: null, decoder: null, post_processor: null, ...tokenizer }
  const pre = tokenizer.pre_tokenizer as JsonObject | null | undefined
  result.pre_tokenizer = pre ? rewritePreTokenizer(pre, path) : null
  result.added_tokens = mergeAddedTokens(files)
  result.post_processor = explicitPostProcessor(files) ?? result.post_processor
  return result
}
