// The words for how S²FT's units are chosen: methods take them, adapters record them.
export const selectionStrategies = [
  'random',
  'weight',
  'activation',
  'weight-activation',
  'gradient',
] as const
export type SelectionStrategy = (typeof selectionStrategies)[number]

export const selectionOrders = ['largest', 'smallest'] as const
export type SelectionOrder = (typeof selectionOrders)[number]

export const allocationNames = ['uniform', 'increasing', 'decreasing', 'one-random-layer'] as const
/** A name, or a weight for each layer. */
export type Allocation = (typeof allocationNames)[number] | readonly number[]
