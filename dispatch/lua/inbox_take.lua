--- Take up again what was read and never acknowledged, in pages; answers the next cursor ("0-0" = through) and entries.
---
--- XAUTOCLAIM answers with two elements in Redis 6.2, where an entry that was deleted is nil, and with three from 7.0.
---
--- KEYS  inbox
--- ARGV  group str, consumer str, idle_ms int, cursor str, count int
--- RETURNS  ok

local inbox = unpack(KEYS)
local group, consumer, idle_ms, cursor, count = unpack(ARGV)
--- @include "group"

open_group()
local page = redis.call("XAUTOCLAIM", inbox, group, consumer, idle_ms, cursor, "COUNT", count)
local entries = {}
for _, entry in ipairs(page[2]) do
  if entry then entries[#entries + 1] = entry end
end
return {"ok", page[1], entries}
