--- List every boot with the time since its last life sign, in ms: by Redis' clock, the only one they share.
---
--- KEYS  instances
--- RETURNS  ok

local instances = unpack(KEYS)

local clock = redis.call("TIME")
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local listed = redis.call("ZRANGE", instances, 0, -1, "WITHSCORES")
local ages = {}
for position = 1, #listed, 2 do
  ages[position] = listed[position]
  ages[position + 1] = now - listed[position + 1]
end
return {"ok", ages}
