--- Say what became of these jobs, in the order asked; `{}` stands for a job that is not here. Changes nothing.
---
--- KEYS  meta jobs line members classes
--- ARGV  ids pack
--- RETURNS  ok | unopened

local meta, jobs, line, members, classes = unpack(KEYS)
local ids = unpack(ARGV)
--- @include "look"

local incarnation = redis.call("HGET", meta, "incarnation")
if not incarnation then return {"unopened"} end
local states = {}
for position, id in ipairs(cmsgpack.unpack(ids)) do
  local packed = redis.call("HGET", jobs, id)
  states[position] = packed and packed ~= "" and describe(id, cmsgpack.unpack(packed)) or {}
end
return {"ok", incarnation, cmsgpack.pack(states)}
