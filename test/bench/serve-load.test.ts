// The load of `s2ft bench serve`: what counts as an answer, and how its figures come about.
import { Agent, createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from 'vitest'
import { parseResults } from '../../lib/bench/read-results.js'
import { benchmarkPage } from '../../lib/bench/report.js'
import type { LoadLine } from '../../lib/bench/serve-load.js'
import { type Answer, complete, percentiles } from '../../lib/bench/serve-load-case.js'
import { slope } from '../../lib/bench/summary.js'
import { judgeTargets } from '../../lib/bench/targets.js'

const token = 'data: {"choices":[{"text":"a","logprobs":{"token_logprobs":[-1]}}]}\n\n'
const last = 'data: {"choices":[{"text":"","logprobs":null,"finish_reason":"length"}]}\n\n'
const done = 'data: [DONE]\n\n'

/** What a client makes of a server that answers so. */
async function answerTo(respond: (to: ServerResponse) => void): Promise<Answer> {
  const server = createServer((_, to) => respond(to)).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const agent = new Agent()
  try {
    const { port } = server.address() as AddressInfo
    return await complete(`http://127.0.0.1:${port}`, agent, { prompt: [1] })
  } finally {
    agent.destroy()
    server.closeAllConnections()
    server.close()
  }
}

describe('an answer', () => {
  test('is timed token by token; those that come together share the time', async () => {
    const answer = await answerTo((to) => {
      to.write(token)
      setTimeout(() => to.write(token + token.slice(0, 20)), 40)
      setTimeout(() => to.write(token.slice(20) + token), 80)
      setTimeout(() => to.end(last + done), 90)
    })
    expect(answer.gaps).toHaveLength(3)
    expect(answer.gaps[0]).toBeGreaterThan(0.015)
    expect(answer.gaps[1]).toBe(answer.gaps[2])
    expect(answer.firstToken).toBeGreaterThan(0)
  })

  test.each<[string, (to: ServerResponse) => void, RegExp]>([
    ['another status', (to) => to.writeHead(503).end('{"error":"busy"}'), /status 503.*busy/],
    ['no end', (to) => to.end(token), /status 200: an answer without an end/],
    ['no token', (to) => to.end(last + done), /an answer without an end/],
    ['an error in the stream', (to) => to.end(`${token}data: {"error":1}\n\n${done}`), /"error":1/],
    ['a broken connection', (to) => to.socket!.destroy(), /socket hang up/],
    ['one that breaks off', (to) => to.write(token, () => to.socket!.destroy()), /aborted/],
  ])('with %s is none', async (_, respond, message) => {
    await expect(answerTo(respond)).rejects.toThrow(message)
  })
})

test('percentiles are values that were measured', () => {
  const values = Array.from({ length: 200 }, (_, i) => 200 - i)
  expect(percentiles(values)).toEqual({ p50: 100, p95: 190, p99: 198 })
  expect(percentiles([3])).toEqual({ p50: 3, p95: 3, p99: 3 })
})

test('a slope is that of least squares, or none', () => {
  expect(
    slope([
      [1, 3],
      [2, 5],
      [4, 9],
    ]),
  ).toBeCloseTo(2)
  expect(slope([[1, 3]])).toBeUndefined()
})

describe('targets and report', () => {
  const line: LoadLine = {
    ...{ type: 'serve-load', model: 'm', dtype: 'f32', device: 'cpu', threads: 1 },
    ...{ clients: 10, adapters: 2, requests: 50, errors: 0, firstError: null, tokens: 500 },
    ...{ seconds: 5, tokensPerSecond: 100, residentBefore: 100, residentAfter: 105 },
    ...{ bytesPerMinute: 3e6, pagesBefore: 0, pagesAfter: 0 },
    firstToken: { p50: 0.1, p95: 0.2, p99: 0.3 },
    token: { p50: 0.01, p95: 0.02, p99: 0.03 },
  }
  const runs = (change: Partial<LoadLine>) =>
    parseResults(JSON.stringify({ ...line, ...change }), 'r')

  test.each([
    [{}, [true, true, true]],
    [{ errors: 1, firstError: 'status 500' }, [false, true, true]],
    [{ pagesAfter: 1 }, [true, false, true]],
    [{ residentAfter: 120 }, [true, true, false]],
    [{ residentAfter: null }, [true, true]],
  ] as [Partial<LoadLine>, boolean[]][])('%j', (change, met) => {
    expect(judgeTargets(runs(change).runs).map((target) => target.met)).toEqual(met)
  })

  test('what failed is shown', () => {
    const page = benchmarkPage(runs({ errors: 1, firstError: 'status 500' }))
    const serving = page.sections.find(({ title }) => title === 'Serving')!
    expect(JSON.stringify(serving.blocks)).toContain('status 500')
    expect(JSON.stringify(serving.blocks)).toContain('100 / 200 / 300')
  })
})
