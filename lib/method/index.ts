// Fine-tuning methods and how they meet a model.
export { dora, full, galore, lisa, lora, loreft, s2ft, sparse } from './options.js'
export { resolveMethod, targetModules } from './resolve.js'
