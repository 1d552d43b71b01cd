// The part of jStat that the study uses; the package has no types of its own.
declare module 'jstat' {
  interface Distribution {
    /** The quantile at probability `p`. */
    inv(p: number, degreesOfFreedom: number): number
  }
  const jStat: { studentt: Distribution; chisquare: Distribution }
  export default jStat
}
