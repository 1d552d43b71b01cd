// Called by binding.gyp: builds with cmake-js and puts the addon where node-gyp wants it.
//   node scripts/node-gyp-action.mjs PRODUCT_DIR
import { copyFileSync, mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { root } from './support/process.mjs'
import { requireNode } from './support/requirements.mjs'
import { buildAddon } from './support/steps.mjs'

const out = 'build-node-gyp'
const products = resolve(process.argv[2] ?? 'build/Release')

requireNode()
buildAddon({ out })
mkdirSync(products, { recursive: true })
copyFileSync(join(root, out, 'Release/s2ft.node'), join(products, 's2ft.node'))
