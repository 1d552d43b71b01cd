// Who may ask: API keys, and for a server without keys on this machine only the names of this
// machine, so that no web page reaches it under a name of its own.
import { createHash, timingSafeEqual } from 'node:crypto'
import { HttpError } from './http-error.js'

const digest = (text: string) => createHash('sha256').update(text).digest()

/** A check of the Authorization header that takes as long for wrong keys as for right ones. */
export function keyCheck(keys: readonly string[]): (header: string | undefined) => void {
  const digests = keys.map(digest)
  return (header) => {
    if (digests.length === 0) return
    const given = digest(/^Bearer +(\S+)$/i.exec(header ?? '')?.[1] ?? '')
    let known = false
    for (const key of digests) known = timingSafeEqual(key, given) || known
    if (known) return
    const found = header === undefined ? 'none' : 'another'
    throw new HttpError(401, `expected an API key as "Authorization: Bearer KEY", found ${found}`, {
      code: 'invalid_api_key',
      headers: { 'www-authenticate': 'Bearer' },
    })
  }
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}

/** Throws 403 unless the Host header names this machine by its loopback address or localhost. */
export function checkLocalName(header: string | undefined): void {
  const name = header
    ?.replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .toLowerCase()
  if (name === undefined || isLoopback(name) || name.endsWith('.localhost')) return
  const found = JSON.stringify(header)
  throw new HttpError(403, `host: expected localhost (no API key is set), found ${found}`)
}
