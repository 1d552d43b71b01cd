// Finds and opens the addon: a prebuild beside the package, or a local build.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type ErrorCode, S2FTError } from '../errors.js'
import type { NativeBinding } from './binding.js'

const require = createRequire(import.meta.url)

/** The package's root: the nearest folder above this file that holds package.json. */
export const packageRoot = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

let loaded: NativeBinding | undefined

const find = (): ((root: string) => unknown) & { path(root: string): string } =>
  require('node-gyp-build')

/** Where the addon lies; libraries that are opened on demand lie beside it. Throws like native(). */
export function addonPath(): string {
  native()
  return find().path(packageRoot)
}

/** The addon, loaded once. Throws NATIVE_LOAD with what was tried and how to mend it. */
export function native(): NativeBinding {
  if (loaded) return loaded
  const version = (
    JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }
  ).version
  let addon: NativeBinding & { setErrorClass(make: unknown): void }
  try {
    addon = find()(packageRoot) as typeof addon
  } catch (cause) {
    throw new S2FTError(
      'NATIVE_LOAD',
      `the native addon for ${process.platform}-${process.arch} could not be loaded from ` +
        `${packageRoot}: ${(cause as Error).message}\n` +
        '  1. on linux-x64 reinstall the package: its prebuild needs glibc 2.36 or newer\n' +
        '  2. elsewhere use a clone of the repository: npm run build there compiles the addon ' +
        '(Node, CMake and a C++17 compiler)',
      { cause },
    )
  }
  if (addon.version !== version) {
    throw new S2FTError(
      'NATIVE_LOAD',
      `expected addon version ${version}, found ${addon.version} under ${packageRoot}: ` +
        'run npm run build',
    )
  }
  addon.setErrorClass(
    (code: ErrorCode, message: string, details?: Record<string, unknown>) =>
      new S2FTError(code, message, details ? { details } : {}),
  )
  loaded = addon
  return addon
}
