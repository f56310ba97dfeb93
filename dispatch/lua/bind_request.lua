--- Bind a request to the job proposed, or answer with the job that it is bound to.
---
--- There is no lock to wait for, and none to lose. Asking again does not prolong the binding: the job's record outlives
--- it, and would not if it could be kept alive.
---
--- KEYS  binding
--- ARGV  job str, cell str, gen int, ttl_ms int
--- RETURNS  created | bound

local binding = unpack(KEYS)
local job, cell, gen, ttl_ms = unpack(ARGV)

local bound = redis.call("HMGET", binding, "job", "cell", "gen")
if bound[1] then return {"bound", bound[1], bound[2], bound[3]} end
redis.call("HSET", binding, "job", job, "cell", cell, "gen", gen)
redis.call("PEXPIRE", binding, ttl_ms)
return {"created", job, cell, gen}
