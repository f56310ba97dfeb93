--- Note that this boot lives, at Redis' time; `new` when it was not on the list: at its start, or after data loss.
---
--- KEYS  instances
--- ARGV  member str
--- RETURNS  ok | new

local instances = unpack(KEYS)
local member = unpack(ARGV)

local clock = redis.call("TIME")
local added = redis.call("ZADD", instances, clock[1] * 1000 + math.floor(clock[2] / 1000), member)
if added == 1 then return {"new"} end
return {"ok"}
