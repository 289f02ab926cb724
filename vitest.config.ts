import { defineConfig } from "vitest/config"

export default defineConfig({
  resolve: { conditions: ["@effect-strata/source"] },
  ssr: { resolve: { conditions: ["@effect-strata/source"] } },
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/support/globalSetup.ts",
    exclude: ["test/bench/**"],
    testTimeout: 60_000,
    hookTimeout: 120_000
  }
})
