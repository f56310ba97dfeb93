--- Give up a peer's socket, unless a later connection has it by now.
---
--- The epoch stays until its TTL, one higher: a renewal of this connection or of an older, half-open one that comes late
--- finds it and changes nothing.
---
--- KEYS  owner latest
--- ARGV  epoch int, ttl_ms int
--- RETURNS  ok | moved

local owner, latest = unpack(KEYS)
local epoch, ttl_ms = unpack(ARGV)

local found = redis.call("GET", latest)
if (tonumber(found) or 0) > tonumber(epoch) then
  if redis.call("EXISTS", owner) == 1 then return {"moved", found} end
  return {"ok"}
end
redis.call("DEL", owner)
redis.call("SET", latest, string.format("%.0f", epoch + 1), "PX", ttl_ms)
return {"ok"}
