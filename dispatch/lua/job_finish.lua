--- End an attempt with what the node answered, free its slot and give it to the next in line.
---
--- The job's current lease decides; a superseded one still counts, when it succeeded, while no newer lease was granted.
--- A failure that another node may mend (`retry`) sends the job on. `ending` is `{outcome, reason, retry, acked}`.
--- Answers `{state, outcome, session, origin}`.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, node_id str, epoch int, id str, lease str, ending pack
--- RETURNS  applied | already | retried | stale_lease | missing | fenced

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, node_id, epoch, id, lease, ending = unpack(ARGV)
--- @include "cell"
--- @include "look"
--- @include "nodes"
--- @include "leases"
--- @include "lines"
--- @include "place"
--- @include "move_up"
--- @include "serve"
--- @include "unsent"

local node = node_of(node_id)
if node and node.epoch ~= tonumber(epoch) then return answer("fenced", {node.epoch}) end
ending = cmsgpack.unpack(ending)
local job = job_of(id)
local word = "stale_lease"

-- The slot of this lease is free, whatever its answer is worth. A lease of another node is not this node's to end.
local held = node and node.leases[lease]
if held and held.job ~= id then held = nil end
if held then
  if ending.acked then node.acks = true end
  end_lease(node_id, node, lease)
end

if not job then
  word = "missing"
elseif job.state == "FINISHED" or job.state == "RELEASED" then
  word = job.ended_by == lease and "already" or "stale_lease"
  if job.zombies[lease] and held then job.zombies[lease] = nil; keep_job(id, job) end
elseif held and (job.lease == lease or (job.zombies[lease] and job.state == "CREATED" and ending.outcome == "ok")) then
  job.zombies[lease] = nil
  local over = true
  if ending.retry and job.lease == lease then
    job.tries = job.tries + 1
    job.excluded[node_id] = true
    over = job.tries >= rules.tries or is_hopeless(job)
  end
  job.lease = ""
  if over then
    job.ended_by = lease
    local waited = job.waiting
    finish(id, job, ending.outcome, ending.reason)
    if waited then move_up(job.kind) end
    word = "applied"
  else
    job.node = ""
    back_to_created(id, job)
    place(id, job, {})
    word = "retried"
  end
elseif held and job.zombies[lease] then
  job.zombies[lease] = nil
  keep_job(id, job)
end

if word == "stale_lease" then tell_attempt(job) end
if node then
  serve(node_id)
  tell_unsent(node_id, node)
end
if not job then return answer(word) end
return answer(word, {job.state, job.outcome, job.session, job.origin or ""})
