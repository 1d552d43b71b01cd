// Which GPU a rank sees.

/**
 * The CUDA_VISIBLE_DEVICES of a rank among those of its host: one GPU each. undefined where the
 * launcher has divided them already, i.e. shows fewer than there are ranks.
 */
export function visibleDevice(
  shown: string | undefined,
  hostRank: number,
  hostSize: number,
): string | undefined {
  if (shown === undefined) return String(hostRank)
  const list = shown.split(',').filter((name) => name.trim() !== '')
  return list.length < hostSize ? undefined : list[hostRank]!.trim()
}
