// What is measured, the most telling first: a run that ends early has those.
const peers = { lora3: 'peft-lora3', lora7: 'peft-lora7', dora3: 'peft-dora3', full: 'peft-full' }
/** Methods that the targets speak of. */
const central = new Set(['s2ft', 'lora3', 'lora7'])

/** The first method's step once more, with one thing of the CUDA backend otherwise. */
const variants = [
  { name: 'cudnn', env: { S2FT_CUDA_ATTENTION: 'cudnn' } },
  { name: 'without-graphs', env: { S2FT_CUDA_GRAPHS: 'off' } },
]

/** Weights, gradients and moments of a method that trains all of a 13B model fit no card. */
const tooLarge = (model, method) => model.endsWith('13b') && method === 'full'

/**
 * Calls of `s2ft bench train`: first every method at the first shape of the first model and, on
 * CUDA, the variants of one of them, then the central ones at the other shapes, then the same of the
 * other models, then the rest.
 */
export function casesOf({ models, methods, shapes, python, device, steps }) {
  const made = []
  const all = methods.split(',')
  models.split(',').forEach((model, m) => {
    const fitting = all.filter((method) => !tooLarge(model, method))
    const first = fitting.filter((method) => central.has(method))
    const rest = fitting.filter((method) => !central.has(method))
    shapes.forEach(({ batch, sequence }, s) => {
      const whole = m === 0 && s === 0
      const parts = whole
        ? [[0, fitting]]
        : [
            [m === 0 ? 1 : 2, first],
            [3, rest],
          ]
      for (const [turn, own] of parts)
        if (own.length > 0) made.push({ turn, model, own, batch, sequence })
      if (!whole || device !== 'cuda') return
      for (const variant of variants)
        made.push({ turn: 0.5, model, own: [all[0]], batch, sequence, variant })
    })
  })
  return made
    .sort((a, b) => a.turn - b.turn)
    .map(({ model, own, batch, sequence, variant }) => {
      const beside = variant ? [] : own.flatMap((method) => peers[method] ?? [])
      const names = variant ? [...own, variant.name] : own
      return {
        model,
        name: `${model}, ${batch} x ${sequence} tokens, ${names.join()}`,
        file: `${model.replace(/\W+/g, '-')}-${batch}x${sequence}-${names.join('-')}.jsonl`,
        env: variant?.env ?? {},
        args: [
          ...['--device', device, '--methods', own.join()],
          ...['--batch', batch, '--sequence', sequence, '--steps', steps],
          // Shapes are captured in the fourth step that has them.
          ...['--rounds', '1', '--warmup', '5'],
          ...(python && beside.length > 0
            ? ['--python', python, '--peers', 'eager', '--peer-methods', beside.join()]
            : []),
        ],
      }
    })
}
