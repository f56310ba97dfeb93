--- Move an entry of an inbox to the dead letters; answers its id there, and how many old letters made room for it.
---
--- `letter` is a flat list of names and values; the time of the move and the entry's own payload are added here.
---
--- KEYS  inbox dlq
--- ARGV  group str, entry str, letter pack, limit int
--- RETURNS  ok | already

local inbox, dlq = unpack(KEYS)
local group, entry, letter, limit = unpack(ARGV)

local found = redis.call("XRANGE", inbox, entry, entry)[1]
redis.call("XACK", inbox, group, entry)
if not found then return {"already"} end
local payload = ""
for position = 1, #found[2], 2 do
  if found[2][position] == "payload" then payload = found[2][position + 1] end
end
local clock = redis.call("TIME")
local moved_at = clock[1] .. string.sub(string.format("%06d", clock[2]), 1, 3)
letter = cmsgpack.unpack(letter)
for _, word in ipairs({"moved_at", moved_at, "payload", payload}) do letter[#letter + 1] = word end
local id = redis.call("XADD", dlq, "*", unpack(letter))
redis.call("XDEL", inbox, entry)
return {"ok", id, redis.call("XTRIM", dlq, "MAXLEN", limit)}
