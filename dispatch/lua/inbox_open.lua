--- Make the consumer group of an inbox, unless it is there.
---
--- KEYS  inbox
--- ARGV  group str
--- RETURNS  created | exists

local inbox = unpack(KEYS)
local group = unpack(ARGV)
--- @include "group"

if open_group() then return {"created"} end
return {"exists"}
