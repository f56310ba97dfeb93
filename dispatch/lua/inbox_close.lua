--- Remove an inbox in which nothing lies; one with unread envelopes stays for `unopened_ms`, for whoever opens it.
---
--- KEYS  inbox
--- ARGV  unopened_ms int
--- RETURNS  closed | kept

local inbox = unpack(KEYS)
local unopened_ms = unpack(ARGV)

if redis.call("XLEN", inbox) > 0 then
  redis.call("PEXPIRE", inbox, unopened_ms)
  return {"kept"}
end
redis.call("DEL", inbox)
return {"closed"}
