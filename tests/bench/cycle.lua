-- wrk asks for each path of the file in $PATHS in turn, with each header line of the file in $HEADERS in turn where there is
-- one, and ends with one line of JSON.
local requests, next_request = {}, 0

function init()
    local headers = {}
    for line in io.lines(os.getenv("HEADERS") or "/dev/null") do
        local name, value = line:match("^([^:]+): (.*)$")
        headers[#headers + 1] = { [name] = value }
    end
    for path in io.lines(os.getenv("PATHS")) do
        requests[#requests + 1] = wrk.format("GET", path, headers[#requests % math.max(#headers, 1) + 1])
    end
end

function request()
    next_request = next_request % #requests + 1
    return requests[next_request]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '{"requests": %d, "seconds": %f, "errors": %d, "p50_us": %f, "p99_us": %f}',
        summary.requests, summary.duration / 1e6,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50), latency:percentile(99)))
end
