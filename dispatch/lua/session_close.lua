--- Delete a session's record, unless a later connection has taken the session over.
---
--- KEYS  record
--- ARGV  epoch int
--- RETURNS  ok | fenced

local record = unpack(KEYS)
local epoch = unpack(ARGV)

local found = redis.call("HGET", record, "epoch")
if (tonumber(found) or 0) > tonumber(epoch) then return {"fenced", found} end
redis.call("UNLINK", record)
return {"ok"}
