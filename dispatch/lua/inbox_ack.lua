--- Acknowledge entries of an inbox and delete them, together.
---
--- KEYS  inbox
--- ARGV  group str, entries pack
--- RETURNS  ok

local inbox = unpack(KEYS)
local group, entries = unpack(ARGV)

entries = cmsgpack.unpack(entries)
redis.call("XACK", inbox, group, unpack(entries))
redis.call("XDEL", inbox, unpack(entries))
return {"ok"}
