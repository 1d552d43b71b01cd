// Fine-tuning methods and how they meet a model.
export { dora, full, galore, lisa, lora, loreft, sparse } from './options.js'
export { resolveMethod, targetModules } from './resolve.js'
export { s2ft } from './s2ft.js'
