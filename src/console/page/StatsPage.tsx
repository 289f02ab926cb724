/** What the log consists of: how many events of which types and aggregates, and when they came. */
import type { Answer } from "../api/Answers.ts"
import { useAnswer } from "./Client.ts"
import { about, clock, whole } from "./Format.ts"
import { Empty, FailedNote, Field, Panel, Skeleton, Table, Time, Whole } from "./Parts.tsx"
import { aggregateHref, href, type Route } from "./Route.ts"

type Stats = Answer<"/api/stats">
type Group = Stats["byType"][number]

const numberOf = (count: number, isEstimate: boolean): string => (isEstimate ? about(count) : whole(count))

const Groups = ({
  groups,
  hrefOf,
  title
}: {
  readonly title: string
  readonly groups: ReadonlyArray<Group>
  readonly hrefOf: (name: string) => string
}) => (
  <Table label={title} heads={[title, { right: "Events" }]}>
    {groups.map(({ events, isEstimate, name }) => (
      <tr key={name}>
        <td class="wrap">
          <a href={hrefOf(name)}>{name}</a>
        </td>
        <td class="right number">{numberOf(events, isEstimate)}</td>
      </tr>
    ))}
  </Table>
)

/** A time that names the day, too, as the log can be years long. */
const dayAndTime = (time: string): string => `${new Date(time).toLocaleDateString("en-GB")} ${clock(Date.parse(time))}`

const Spans = ({ isEstimate, spans }: Stats) => {
  const most = Math.max(1, ...spans.map(({ events }) => events))
  return (
    <div class="table-box" tabIndex={0} role="group" aria-label="When they came">
      <table>
        <thead>
          <tr>
            <th>From</th>
            <th class="right">Events</th>
            <th class="spans-bar">
              <span class="muted">of at most {numberOf(most, isEstimate)}</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {spans.map(({ events, from }) => (
            <tr key={from}>
              <td>
                <time dateTime={from} title={from}>
                  {dayAndTime(from)}
                </time>
              </td>
              <td class="right number">{numberOf(events, isEstimate && events > 0)}</td>
              <td class="spans-bar">
                <meter
                  min={0}
                  max={most}
                  value={events}
                  aria-label={`${numberOf(events, isEstimate)} events from ${from} on`}
                />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}

const Content = ({ stats }: { readonly stats: Stats }) => (
  <>
    {stats.isEstimate ? (
      <p class="note">
        A part of this log stands for all of it. <code>strata events stats --exact</code> counts it, which reads the
        whole log.
      </p>
    ) : null}
    <dl class="fields">
      <Field name="Events">{numberOf(stats.events, stats.isEstimate)}</Field>
      <Field name="Aggregates">
        {stats.aggregates === null ? "not known of a part of the log" : numberOf(stats.aggregates, stats.isEstimate)}
      </Field>
      <Field name="Types">{whole(stats.types)}</Field>
      <Field name="Last version">
        <Whole value={stats.latestVersion} />
      </Field>
      <Field name="First">{stats.first === null ? "none" : <Time at={stats.first} />}</Field>
      <Field name="Last">{stats.last === null ? "none" : <Time at={stats.last} />}</Field>
    </dl>
    <div class="columns">
      <Panel title="Types" aside="with the most events">
        <Groups title="Type" groups={stats.byType} hrefOf={(type) => href(["log"], { type })} />
      </Panel>
      {stats.byAggregate.length === 0 ? null : (
        <Panel title="Aggregates" aside="with the most events">
          <Groups title="Aggregate" groups={stats.byAggregate} hrefOf={aggregateHref} />
        </Panel>
      )}
    </div>
    <Panel title="When they came">
      <Spans {...stats} />
    </Panel>
  </>
)

export const StatsPage = ({ route }: { readonly route: Route }) => {
  const createdAfter = route.query.get("createdAfter")
  const { failed, reload, value } = useAnswer("/api/stats", createdAfter === null ? {} : { createdAfter })
  if (value === undefined) return failed === undefined ? <Skeleton lines={12} /> : <FailedNote failed={failed} />
  return (
    <>
      <div class="list-bar">
        <a href={href(["log"])}>To the log</a>
        <button type="button" class="button plain" onClick={reload}>
          Count again
        </button>
      </div>
      {failed === undefined ? null : <FailedNote failed={failed} />}
      {value.events === 0 ? <Empty title="There are no events" /> : <Content stats={value} />}
    </>
  )
}
