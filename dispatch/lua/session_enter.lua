--- Enter the job of one utterance for one target language in its session's record.
---
--- KEYS  record
--- ARGV  utterance str, job str, ttl_ms int
--- RETURNS  ok

local record = unpack(KEYS)
local utterance, job, ttl_ms = unpack(ARGV)

redis.call("HSET", record, utterance, job)
-- Also here: after data loss this is what makes the record, and nothing may live for ever.
redis.call("PEXPIRE", record, ttl_ms)
return {"ok"}
