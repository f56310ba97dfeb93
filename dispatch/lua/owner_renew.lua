--- Keep a peer's socket on record, or put it back when the record is gone; only a higher epoch refuses.
---
--- KEYS  owner latest
--- ARGV  instance str, epoch int, ttl_ms int
--- RETURNS  renewed | restored | moved

local owner, latest = unpack(KEYS)
local instance, epoch, ttl_ms = unpack(ARGV)

local found = redis.call("GET", latest)
local current = tonumber(found) or 0
if current > tonumber(epoch) then return {"moved", found} end
local kept = current == tonumber(epoch) and redis.call("GET", owner) == instance
redis.call("SET", owner, instance, "PX", ttl_ms)
redis.call("SET", latest, epoch, "PX", ttl_ms)
if kept then return {"renewed"} end
return {"restored"}
