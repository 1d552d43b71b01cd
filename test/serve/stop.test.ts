// A server that stops: what runs ends well within the grace period, nothing new begins.
import { Agent, get } from 'node:http'
import { connect } from 'node:net'
import { expect, test } from 'vitest'
import { post, send, startFake, until } from './support.js'

const long = { model: 'tiny', prompt: 'The', max_tokens: 40, temperature: 0, stop: '\u0000' }

test('running requests finish; a connection that is open gets no new one', async () => {
  const { url, server, engine } = await startFake({ delay: 10 })
  const agent = new Agent({ keepAlive: true })
  const status = (path: string) =>
    new Promise<number>((resolve, reject) => {
      get(url + path, { agent }, (answer) => {
        answer.resume().on('end', () => resolve(answer.statusCode!))
      }).on('error', reject)
    })
  // A connection with a request under way stays open after the stop.
  const socket = connect(server.port, '127.0.0.1')
  let told = ''
  socket.on('data', (chunk) => {
    told += chunk
  })
  const ask = (path: string, body: object) => {
    const text = JSON.stringify(body)
    const head = `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json`
    socket.write(`${head}\r\ncontent-length: ${text.length}\r\n\r\n${text}`)
  }
  ask('/v1/completions', long)
  const stream = post(`${url}/v1/completions`, { ...long, stream: true })
  const whole = post(`${url}/v1/completions`, long)
  await until(() => engine.running === 3)
  expect(await status('/health')).toBe(200)
  const stopped = server.stop()
  ask('/v1/completions', long)
  await expect(fetch(`${url}/health`)).rejects.toThrow()
  expect((await whole).json.choices[0].finish_reason).toBe('length')
  expect((await stream).text).toMatch(/"finish_reason":"length".*\n\ndata: \[DONE\]\n\n$/)
  await stopped
  expect(engine.requests).toHaveLength(3)
  expect(told).toMatch(/^HTTP\/1\.1 200 OK.*"finish_reason":"length".*HTTP\/1\.1 503 /s)
  expect(told).toMatch(/"code":"stopping"/)
  expect(engine.stats().totals.aborted).toBe(0)
  agent.destroy()
})

test('what takes longer than the grace period is ended and told so', async () => {
  const { url, server, engine } = await startFake({ delay: 20, gracePeriod: 0.3 })
  const endless = { ...long, max_tokens: 250 }
  const whole = post(`${url}/v1/completions`, endless)
  const stream = post(`${url}/v1/completions`, { ...endless, stream: true })
  await until(() => engine.running === 2)
  const start = performance.now()
  await server.stop()
  expect(performance.now() - start).toBeLessThan(3000)
  expect((await whole).status).toBe(503)
  expect((await whole).json.error.code).toBe('stopping')
  expect((await stream).text).toMatch(/"code":"stopping".*\n\ndata: \[DONE\]\n\n$/)
  await until(() => engine.running === 0)
})

test('idle connections do not hold up the end, and it may be asked for twice', async () => {
  const { url, server } = await startFake()
  const agent = new Agent({ keepAlive: true })
  await new Promise<void>((resolve) => {
    get(`${url}/health`, { agent }, (answer) => answer.resume().on('end', resolve))
  })
  const quiet = connect(server.port, '127.0.0.1')
  quiet.on('error', () => {})
  await new Promise((resolve) => quiet.once('connect', resolve))
  expect((await send(`${url}/health`)).status).toBe(200)
  const start = performance.now()
  await Promise.all([server.stop(), server.stop()])
  expect(performance.now() - start).toBeLessThan(3000)
  agent.destroy()
})
