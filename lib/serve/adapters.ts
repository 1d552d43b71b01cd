// vLLM's routes that add and remove adapters while the server runs.
import { readdir, realpath, stat } from 'node:fs/promises'
import { isAbsolute, join, relative, resolve, sep } from 'node:path'
import { z } from 'zod'
import { S2FTError } from '../errors.js'
import { validate } from '../model/validate.js'
import { badRequest, HttpError, modelNotFound } from './http-error.js'
import type { Service } from './service.js'

const name = z.string().regex(/^[^\p{Cc}]{1,256}$/u, {
  error: 'expected 1 to 256 characters without control characters',
})
const loadSchema = z.object({ lora_name: name, lora_path: z.string().min(1).max(4096) })
const unloadSchema = z.object({ lora_name: name })

function requireRoot({ adapterRoot }: Service): string {
  if (adapterRoot !== undefined) return adapterRoot
  throw new HttpError(403, 'adapters cannot be changed: the server has no --adapter-root')
}

function inside(root: string, path: string): boolean {
  const way = relative(root, path)
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way)
}

function outside(path: string): HttpError {
  const found = JSON.stringify(path)
  return badRequest(
    `lora_path: expected a directory below the adapter root, found ${found}`,
    'lora_path',
  )
}

/**
 * The real path of an adapter's directory. Throws for what lies, or has a file that lies, outside
 * of `root` (a real path), without telling what is there.
 */
export async function adapterDirectory(root: string, path: string): Promise<string> {
  if (path.includes('\0')) throw outside(path)
  const wanted = resolve(root, path)
  if (!inside(root, wanted)) throw outside(path)
  const missing = new HttpError(
    404,
    `lora_path: expected a directory below the adapter root, found none at ${JSON.stringify(path)}`,
    { param: 'lora_path' },
  )
  const real = await realpath(wanted).catch(() => undefined)
  if (real === undefined) throw missing
  if (!inside(root, real)) throw outside(path)
  if (!(await stat(real)).isDirectory()) throw missing
  for (const entry of await readdir(real, { withFileTypes: true })) {
    if (!entry.isSymbolicLink()) continue
    const target = await realpath(join(real, entry.name)).catch(() => undefined)
    if (target === undefined || !inside(root, target)) throw outside(path)
  }
  return real
}

/** Returns vLLM's own sentence. */
export async function loadAdapter(service: Service, body: unknown): Promise<string> {
  const root = requireRoot(service)
  const { lora_name, lora_path } = validate(loadSchema, body, 'request')
  const known = service.engine.adapters().some((adapter) => adapter.name === lora_name)
  if (known || lora_name === service.model.name) {
    throw badRequest(`lora_name: ${JSON.stringify(lora_name)} is in use already`, 'lora_name')
  }
  const directory = await adapterDirectory(root, lora_path)
  try {
    await service.engine.addAdapter(lora_name, directory)
  } catch (error) {
    throw adapterError(error, directory, lora_path)
  }
  service.loaded.set(lora_name, Math.floor(Date.now() / 1000))
  return `Success: LoRA adapter '${lora_name}' added successfully.`
}

/** What is wrong with an adapter is for its owner to mend; its place on the disk stays untold. */
function adapterError(error: unknown, directory: string, path: string): unknown {
  const failed = ['OUT_OF_MEMORY', 'DISPOSED', 'CANCELLED', 'BUSY', 'INTERNAL']
  if (!(error instanceof S2FTError) || failed.includes(error.code)) return error
  const message = error.message.replaceAll(directory, path)
  return badRequest(`lora_path: ${message}`, 'lora_path', error.code.toLowerCase())
}

export async function unloadAdapter(service: Service, body: unknown): Promise<string> {
  requireRoot(service)
  const { lora_name } = validate(unloadSchema, body, 'request')
  if (!service.engine.adapters().some((adapter) => adapter.name === lora_name)) {
    throw modelNotFound(lora_name)
  }
  await service.engine.removeAdapter(lora_name)
  service.loaded.delete(lora_name)
  return `Success: LoRA adapter '${lora_name}' removed successfully.`
}
