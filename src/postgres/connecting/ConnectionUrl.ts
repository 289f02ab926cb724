/** A `postgres://` URL, which can name several hosts. The driver, and `URL`, know only one. */
import { Result } from "effect"

export interface ConnectionUrl {
  /** As the URL names them, from its authority or its parameters; empty where it names none. */
  readonly hosts: ReadonlyArray<string>
  readonly ports: ReadonlyArray<string>
  /** The parameters, as they are written. Of two with the same name the last one counts. */
  readonly parameters: ReadonlyMap<string, string>
  /** Who connects to what, without hosts and without these parameters, for the driver. */
  readonly without: (parameters: ReadonlyArray<string>) => URL
}

const authorityPattern = /^(postgres(?:ql)?:\/\/)([^/?#]*)(.*)$/s

/** A name, an IPv4 address, an IPv6 address in brackets, or nothing; then perhaps a port. */
const hostPattern = /^(\[[\da-f:.%]+\]|[^\s:[\]@]*)(?::(\d*))?$/i

const expected = "Expected a postgres:// URL"

const isEmpty = (texts: ReadonlyArray<string>) => texts.every((text) => text === "")

const unescape = (text: string): string | undefined => {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}

/** The parts of the URL, or what is wrong with it. What is wrong never repeats a part of it: it can hold a password. */
export const parse = (text: string): Result.Result<ConnectionUrl, string> => {
  const [, scheme = "", authority = "", rest = ""] = authorityPattern.exec(text.trim()) ?? []
  if (scheme === "") return Result.fail(expected)
  const at = authority.lastIndexOf("@") + 1
  const places = authority
    .slice(at)
    .split(",")
    .map((place) => hostPattern.exec(place))
  const single = `${scheme}${authority.slice(0, at)}localhost${rest}`
  if (!URL.canParse(single)) return Result.fail(expected)
  const { password, pathname, searchParams, username } = new URL(single)
  if ([username, password, pathname].some((part) => unescape(part) === undefined)) {
    return Result.fail(`${expected} whose user, password and database have %25 where they mean a %`)
  }
  const parameters = new Map(searchParams)

  const hosts: Array<string> = []
  const ports: Array<string> = []
  for (const place of places) {
    const name = unescape(place?.[1]?.replace(/^\[(.*)\]$/, "$1") ?? "%")
    if (name === undefined) return Result.fail("Expected hosts of the form name:port, with commas between them")
    hosts.push(name)
    ports.push(place?.[2] ?? "")
  }
  const named = parameters.get("host")?.split(",") ?? hosts
  const numbered = parameters.get("port")?.split(",") ?? ports
  return Result.succeed({
    hosts: isEmpty(named) ? [] : named,
    ports: isEmpty(numbered) ? [] : numbered,
    parameters,
    without: (names) => {
      const url = new URL(single)
      for (const name of names) url.searchParams.delete(name)
      return url
    }
  })
}

export interface Address {
  readonly name: string
  readonly port: number
}

const defaultPort = 5432

/** Each host with its port: one port stands for all hosts. Nothing stands for the default. */
export const pair = (
  hosts: ReadonlyArray<string>,
  ports: ReadonlyArray<string>
): Result.Result<ReadonlyArray<Address>, string> => {
  const names = hosts.length === 0 ? [""] : hosts
  if (ports.length > 1 && ports.length !== names.length) {
    return Result.fail(
      `Expected one port, or as many as there are hosts: these are ${ports.length} for ${names.length}`
    )
  }
  const addresses: Array<Address> = []
  for (const [index, name] of names.entries()) {
    const text = (ports.length === 1 ? ports[0] : ports[index]) ?? ""
    const port = text === "" ? defaultPort : Number(text)
    if (!Number.isInteger(port) || port < 1 || port > 65_535) {
      return Result.fail("Expected a port to be a number from 1 to 65535")
    }
    addresses.push({ name: name === "" ? "localhost" : name, port })
  }
  return Result.succeed(addresses)
}
