--- Cancel a job that nobody wants any more: it leaves its line, or its attempt becomes a zombie and is told to stop.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, id str, reason str
--- RETURNS  applied | already | missing

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, id, reason = unpack(ARGV)
--- @include "cell"
--- @include "look"
--- @include "nodes"
--- @include "leases"
--- @include "lines"
--- @include "place"
--- @include "move_up"

local job = job_of(id)
if not job then return answer("missing") end
if job.state == "FINISHED" or job.state == "RELEASED" then return answer("already", {job.state, job.outcome}) end
if job.lease ~= "" then
  local node = node_of(job.node)
  if node then cancels[1] = {job.node, node.owner, node.epoch, job.lease, id, reason} end
  bury_lease(id, job)
end
local waited = job.waiting
finish(id, job, "cancelled", reason)
if waited then move_up(job.kind) end
return answer("applied", {job.state, job.outcome})
