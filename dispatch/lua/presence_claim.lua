--- Take an instance id for this boot, unless another boot has it.
---
--- KEYS  presence
--- ARGV  boot str, document str, ttl_ms int
--- RETURNS  ok | taken

local presence = unpack(KEYS)
local boot, document, ttl_ms = unpack(ARGV)
--- @include "boot_of"

local holder = boot_of(redis.call("GET", presence))
if holder and holder ~= boot then return {"taken", holder} end
redis.call("SET", presence, document, "PX", ttl_ms)
return {"ok"}
