--- Take up to `limit` overdue steps of the cell and repair each; whoever calls it tells the others what follows.
---
--- Steps: a granted lease not sent, an attempt not acknowledged or past its execution time, a zombie at its ceiling, a
--- waiting job nobody asked about any more, an unclaimed result, the end of a record, the end of a node's grace.
--- Answers how many were taken.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, limit int
--- RETURNS  ok

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, limit = unpack(ARGV)
--- @include "cell"
--- @include "look"
--- @include "nodes"
--- @include "leases"
--- @include "lines"
--- @include "place"
--- @include "move_up"
--- @include "supersede"
--- @include "lost"
--- @include "serve"
--- @include "released"

local touched = {}

local function overdue_lease(id, lease)
  local job = job_of(id)
  if not job or job.lease ~= lease then return end
  local node = node_of(job.node)
  local held = node and node.leases[lease]
  if held and held.state == "granted" then
    supersede(id, job, false, true, "failed", "NODE_UNAVAILABLE")
  else
    supersede(id, job, true, true, "timed_out", "JOB_TIMEOUT")
  end
end

local function overdue_zombie(node_id, lease)
  local node = node_of(node_id)
  local held = node and node.leases[lease]
  if not held then return end
  local job = job_of(held.job)
  if job and job.zombies[lease] then job.zombies[lease] = nil; keep_job(held.job, job) end
  end_lease(node_id, node, lease)
  touched[node_id] = true
end

local function overdue_job(id)
  local job = job_of(id)
  if not job then return end
  if job.waiting then
    finish(id, job, "timed_out", "JOB_TIMEOUT")
    endings[#endings + 1] = {id, job.session, job.index, job.origin, "timed_out", "JOB_TIMEOUT"}
    move_up(job.kind)
  elseif job.state == "FINISHED" then
    release(id, job)
  elseif job.state == "RELEASED" then
    if tonumber(redis.call("HGET", indexes, job.session) or -1) == job.index then redis.call("HDEL", indexes, job.session) end
    keep_job(id, false)
  end
end

local function overdue_grace(node_id)
  local node = node_of(node_id)
  if not node or (node.gone == 0 and not node.waking and not node.stale) then return end
  node.waking = false
  enrol(node, "", "")
  keep_node(node_id, node)
  touched[node_id] = true
end

local steps = redis.call("ZRANGEBYSCORE", due, "-inf", now, "LIMIT", 0, tonumber(limit))
for _, step in ipairs(steps) do
  redis.call("ZREM", due, step)
  local what, first, second = string.match(step, "^(%S+) (%S+) ?(%S*)$")
  if what == "lease" then
    overdue_lease(first, second)
  elseif what == "zombie" then
    overdue_zombie(first, second)
  elseif what == "job" then
    overdue_job(first)
  else
    overdue_grace(first)
  end
end
for node_id in pairs(touched) do serve(node_id) end
return answer("ok", {#steps})
