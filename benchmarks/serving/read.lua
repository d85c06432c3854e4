-- wrk -s read.lua URL -- KIND ENTITIES KEY; KIND: get, batch or feast. Prints one JSON line.
local kind, count, key = "get", 1, ""
local names = {}
for i = 0, 9 do names[#names + 1] = '"uf:f' .. i .. '"' end

function init(args)
  kind, count, key = args[1], tonumber(args[2]), args[3] or ""
  math.randomseed(42)
end

function request()
  local headers = { ["content-type"] = "application/json" }
  if key ~= "" then headers["authorization"] = "Bearer " .. key end
  if kind == "get" then
    return wrk.format("GET", "/features/bench?entity_id=" .. math.random(0, 9999), headers)
  end
  local ids = {}
  for i = 1, count do ids[i] = math.random(0, 9999) end
  local listed = table.concat(ids, ",")
  if kind == "batch" then
    return wrk.format("POST", "/features/batch", headers,
      '{"feature_set":"bench","entity_ids":[' .. listed .. "]}")
  end
  return wrk.format("POST", "/get-online-features", headers,
    '{"features":[' .. table.concat(names, ",") .. '],"entities":{"user_id":[' .. listed .. "]}}")
end

function done(summary, latency, requests)
  io.write(string.format('{"rps":%.1f,"p50_ms":%.3f,"p99_ms":%.3f,"errors":%d}\n',
    summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1000,
    latency:percentile(99) / 1000,
    summary.errors.connect + summary.errors.read + summary.errors.write
      + summary.errors.timeout + summary.errors.status))
end
