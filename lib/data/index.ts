// The data layer's public face: files to rows, rows to samples, samples to batches, answers.
export {
  choiceLabels,
  goldNumber,
  isMathCorrect,
  NUMBER_TOLERANCE,
  pickOption,
  readChoice,
  readLetter,
  readNumber,
  readNumbers,
} from './answers.js'
export { type Batch, type PackOptions, packBatches, sampleOrder } from './batches.js'
export {
  defaultMaxLength,
  describeReport,
  type EncodeDatasetOptions,
  type EncodedDataset,
  type EncodeReport,
  encodeDataset,
} from './encode.js'
export {
  type EncodedSample,
  type EncodeRowOptions,
  encodeRow,
  IGNORED,
  type SampleTokenizer,
  trainedTokens,
} from './encode-row.js'
export {
  type EncodedChoice,
  type EncodedPrompt,
  encodeChoice,
  encodeOptions,
  encodePrompt,
  type Gold,
  goldOf,
  isCorrect,
  type PromptOptions,
} from './evaluate.js'
export {
  type Dataset,
  type Dropped,
  type LoadOptions,
  loadDataset,
  type SplitOptions,
  splitDataset,
} from './load.js'
export { NEAR, normalisedQuestion, type OverlapMatch, QuestionIndex } from './overlap.js'
export { alpacaPrompt, choiceLetter, choiceQuestion, type TemplateName } from './prompts.js'
export { Random } from './random.js'
export { type DataRow, parseRow, type RowKind } from './rows.js'
