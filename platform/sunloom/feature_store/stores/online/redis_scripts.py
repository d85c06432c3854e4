"""Lua scripts that the Redis server runs, each atomically."""

# A Lua number is a float and cannot hold every time exactly, so its two halves are compared.
PUT_NEWER = """
local written = 0
for i, key in ipairs(KEYS) do
  local record, expiry = ARGV[2 * i - 1], ARGV[2 * i]
  local stored = redis.call('GETRANGE', key, 0, 7)
  local keep = false
  if #stored == 8 then
    local stored_low, stored_high = struct.unpack('<I4i4', stored)
    local low, high = struct.unpack('<I4i4', record)
    keep = stored_high > high or (stored_high == high and stored_low > low)
  end
  if not keep then
    if expiry == '' then redis.call('SET', key, record)
    else redis.call('SET', key, record, 'PXAT', expiry) end
    written = written + 1
  end
end
return written
"""
# The set of all descriptions spares the listing a scan of the server's keys.
SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], KEYS[1])
return 1
"""
# Values are passed with a mark before them, so that an empty one differs from none.
APPLY = """
local at = 2
for _ = 1, tonumber(ARGV[1]) do
  local stored = redis.call('HGET', KEYS[tonumber(ARGV[at])], ARGV[at + 1])
  if (stored and '=' .. stored or '') ~= ARGV[at + 2] then return 0 end
  at = at + 3
end
while at < #ARGV do
  local space, key, value = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  if value == '' then redis.call('HDEL', space, key)
  else redis.call('HSET', space, key, string.sub(value, 2)) end
  at = at + 3
end
return 1
"""
