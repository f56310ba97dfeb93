--- Write a session's record for its present connection, or keep it alive; a later connection refuses.
---
--- KEYS  record
--- ARGV  epoch int, instance str, src str, tgt str, ttl_ms int
--- RETURNS  ok | fenced

local record = unpack(KEYS)
local epoch, instance, src, tgt, ttl_ms = unpack(ARGV)

local found = redis.call("HGET", record, "epoch")
if (tonumber(found) or 0) > tonumber(epoch) then return {"fenced", found} end
redis.call("HSET", record, "epoch", epoch, "instance", instance, "src", src, "tgt", tgt)
redis.call("PEXPIRE", record, ttl_ms)
return {"ok"}
