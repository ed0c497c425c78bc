-- wrk script: posts the lines of the file BODIES in turn and prints the results as one line of JSON.
local bodies, number = {}, 0
for line in io.lines(os.getenv("BODIES")) do
  bodies[#bodies + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, line)
end

function request()
  number = number % #bodies + 1
  return bodies[number]
end

function done(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  io.write(string.format('{"requests": %d, "seconds": %.6f, "failed": %d, "p99_ms": %.3f, "max_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(99.0) / 1e3, latency.max / 1e3))
end
