/** What `strata doctor` checks, with a remedy for each problem. */
import { useAnswer } from "./Client.ts"
import { plural } from "./Format.ts"
import { Badge, FailedNote, Skeleton } from "./Parts.tsx"

export const DoctorPage = () => {
  const { failed, reload, value } = useAnswer("/api/doctor", {})
  if (value === undefined) return failed === undefined ? <Skeleton lines={12} /> : <FailedNote failed={failed} />
  const problems = value.filter(({ level }) => level === "problem").length
  const warnings = value.filter(({ level }) => level === "warning").length
  return (
    <>
      <div class="list-bar">
        <span>
          {plural(value.length, "finding")}: {plural(problems, "problem")}, {plural(warnings, "warning")}
        </span>
        <button type="button" class="button plain" onClick={reload}>
          Check again
        </button>
      </div>
      <div class="table-box" tabIndex={0} role="group" aria-label="Findings">
        <table class="roomy">
          <thead>
            <tr>
              <th>Check</th>
              <th>Level</th>
              <th>What it found</th>
            </tr>
          </thead>
          <tbody>
            {value.map(({ check, level, remedy, says }) => (
              <tr key={`${check} ${says}`}>
                <td>{check}</td>
                <td>
                  <Badge state={level} />
                </td>
                <td class="wrap">
                  {says}
                  {remedy === null ? null : <div class="remedy">{remedy}</div>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  )
}
