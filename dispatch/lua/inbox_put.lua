--- Put an envelope into an inbox, unless it is full. Nothing is ever trimmed: the sender is told, and decides.
---
--- KEYS  inbox
--- ARGV  payload pack, limit int
--- RETURNS  ok | full

local inbox = unpack(KEYS)
local payload, limit = unpack(ARGV)

local length = redis.call("XLEN", inbox)
if length >= tonumber(limit) then return {"full", tostring(length)} end
return {"ok", redis.call("XADD", inbox, "*", "payload", payload)}
