--- Note that the sessions have these results: the records shrink to what answers a repeated request, until the binding is gone.
---
--- KEYS  meta nodes jobs due
--- ARGV  rules pack, ids pack
--- RETURNS  ok

local meta, nodes, jobs, due = unpack(KEYS)
local rules, ids = unpack(ARGV)
--- @include "cell"
--- @include "released"

for _, id in ipairs(cmsgpack.unpack(ids)) do
  local job = job_of(id)
  if job and job.state == "FINISHED" then release(id, job) end
end
return answer("ok")
