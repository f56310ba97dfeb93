--- Remove an inbox in which nothing lies; one with unread envelopes stays for whoever takes it over.
---
--- KEYS  inbox
--- RETURNS  closed | kept

local inbox = unpack(KEYS)

if redis.call("XLEN", inbox) > 0 then return {"kept"} end
redis.call("DEL", inbox)
return {"closed"}
