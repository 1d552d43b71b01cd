// Brings a fresh checkout to a working state: npm packages, oneDNN, the addon, dist/.
// Does nothing twice and says nothing when there is nothing to do.
//   node scripts/setup.mjs [--tests] [--addon] [--out DIR]
import { parseArgs } from 'node:util'
import { fail } from './support/process.mjs'
import { requireNode } from './support/requirements.mjs'
import { buildAddon, compileTypeScript, installModules } from './support/steps.mjs'

function options() {
  try {
    return parseArgs({
      options: {
        tests: { type: 'boolean', default: false },
        addon: { type: 'boolean', default: false },
        out: { type: 'string', default: 'build' },
      },
    }).values
  } catch (error) {
    return fail(`${error.message}\nusage: node scripts/setup.mjs [--tests] [--addon] [--out DIR]`)
  }
}

const { tests, addon, out } = options()
requireNode()
installModules()
buildAddon({ out, tests })
if (!addon) compileTypeScript()
