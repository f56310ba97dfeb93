--- Give another life sign, or put the lost one back; another boot that took the id meanwhile refuses.
---
--- KEYS  presence
--- ARGV  boot str, document str, ttl_ms int
--- RETURNS  renewed | restored | taken

local presence = unpack(KEYS)
local boot, document, ttl_ms = unpack(ARGV)
--- @include "boot_of"

local holder = boot_of(redis.call("GET", presence))
if holder and holder ~= boot then return {"taken", holder} end
redis.call("SET", presence, document, "PX", ttl_ms)
if holder then return {"renewed"} end
return {"restored"}
