import { defineConfig } from 'vitest/config'

// Native addons need real processes; files run one after another because every
// model uses all cores.
export default defineConfig({
  test: {
    pool: 'forks',
    fileParallelism: false,
    include: ['test/**/*.test.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})
