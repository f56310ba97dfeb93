--- Take a peer's socket for this instance, with an epoch above every earlier one, also above those that data loss hid.
---
--- KEYS  owner latest
--- ARGV  instance str, above int, ttl_ms int
--- RETURNS  ok

local owner, latest = unpack(KEYS)
local instance, above, ttl_ms = unpack(ARGV)

local clock = redis.call("TIME")
local previous = redis.call("GET", owner)
local before = tonumber(redis.call("GET", latest)) or 0
-- Written out in full: Lua's own way of showing a number keeps 14 digits, and an epoch has 16.
local epoch = string.format("%.0f", math.max(before + 1, above + 1, clock[1] * 1000000 + clock[2]))
redis.call("SET", owner, instance, "PX", ttl_ms)
redis.call("SET", latest, epoch, "PX", ttl_ms)
return {"ok", epoch, previous or ""}
