/** Numbers of things as people read them. */

/** A number of things, in words. */
export const count = (number: number | bigint, thing: string): string =>
  `${number.toLocaleString("en-US")} ${thing}${number === 1 || number === 1n ? "" : thing.endsWith("s") ? "es" : "s"}`

const twoDigits = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 2 })

/** A number that was estimated. More digits than this would not be true. */
export const about = (number: number | bigint): string => `about ${twoDigits.format(number)}`
