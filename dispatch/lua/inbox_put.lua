--- Put an envelope into an inbox, unless it is full. Nothing is ever trimmed: the sender is told, and decides.
---
--- An inbox that is not there yet ends by itself after `unopened_ms`, unless its instance opens it: it may have left.
---
--- KEYS  inbox
--- ARGV  payload pack, limit int, unopened_ms int
--- RETURNS  ok | full

local inbox = unpack(KEYS)
local payload, limit, unopened_ms = unpack(ARGV)

local length = redis.call("XLEN", inbox)
if length >= tonumber(limit) then return {"full", tostring(length)} end
local there = redis.call("EXISTS", inbox) == 1
local id = redis.call("XADD", inbox, "*", "payload", payload)
if not there then redis.call("PEXPIRE", inbox, unopened_ms) end
return {"ok", id}
