// What the options of several methods have in common.
import { z } from 'zod'

export const seed = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER).default(0)
