// Counts of passed, failed and skipped tests, added up over several runners.

export function emptyTally() {
  return { passed: 0, failed: 0, skipped: 0 }
}

export function add(total, part) {
  for (const key of Object.keys(total)) total[key] += part[key]
  return total
}

/** The line that ends `npm test` and CI, e.g. `12 passed, 0 failed, 1 skipped`. */
export function tallyLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}

/** The last tally line in a program's output, or undefined. */
export function parseTallyLine(text) {
  const lines = text.match(/^\d+ passed, \d+ failed(?:, \d+ skipped)?$/gm)
  if (!lines) return undefined
  const [passed, failed, skipped = 0] = lines.at(-1).match(/\d+/g).map(Number)
  return { passed, failed, skipped }
}

/**
 * Cases of the C++ tests in `ctest -V` output. An executable that ends badly without naming a
 * failed case (a crash, a sanitizer's report, a time-out) counts as one failure.
 */
export function tallyCtest(text) {
  const total = emptyTally()
  const perTest = new Map()
  const of = (id) => perTest.set(id, perTest.get(id) ?? emptyTally()).get(id)
  for (const line of text.split('\n')) {
    const mark = /^(\d+): (ok {3}|FAIL |skip )/.exec(line)
    if (mark) of(mark[1])[{ o: 'passed', F: 'failed', s: 'skipped' }[mark[2][0]]] += 1
    const end = /^\s*\d+\/\d+ Test\s+#(\d+): \S+ \.*\s*(\**)/.exec(line)
    if (end && end[2] !== '' && of(end[1]).failed === 0) of(end[1]).failed = 1
  }
  for (const part of perTest.values()) add(total, part)
  return total
}

/** Counts of vitest's JSON report; a file that could not be loaded is one failure. */
export function tallyVitest(report) {
  const unloaded = report.testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.length === 0,
  )
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests + unloaded.length,
    skipped: report.numPendingTests + report.numTodoTests,
  }
}
