--- Take back the life sign of this boot; another boot's stays.
---
--- KEYS  presence
--- ARGV  boot str
--- RETURNS  ok | taken

local presence = unpack(KEYS)
local boot = unpack(ARGV)
--- @include "boot_of"

local holder = boot_of(redis.call("GET", presence))
if holder and holder ~= boot then return {"taken", holder} end
redis.call("DEL", presence)
return {"ok"}
