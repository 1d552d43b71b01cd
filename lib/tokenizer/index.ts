// The tokenizer's public face.
export type { ChatMessage, ChatTemplateOptions, ContentPart } from './chat-template.js'
export { copyTokenizerFiles } from './files.js'
export { TextStream } from './text-stream.js'
export {
  type DecodeOptions,
  type EncodeOptions,
  Tokenizer,
  type TokenizerLoadOptions,
} from './tokenizer.js'
