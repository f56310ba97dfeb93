--- Take a job in, or say what became of it: lease it to the best free node, else let it wait, else refuse it.
---
--- A job whose record has the same or a later generation is only described, so a repeated call answers with its current
--- state. A refusal is stored with the job and outlives the binding.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, id str, gen int, spec pack
--- RETURNS  assigned | queued | refused | finished | other_life

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, id, gen, spec = unpack(ARGV)
--- @include "cell"
--- @include "look"
--- @include "nodes"
--- @include "leases"
--- @include "lines"
--- @include "place"

gen = tonumber(gen)
local function state_of(job)
  if job.state == "CREATED" then return answer("queued", describe(id, job)) end
  if job.outcome == "refused" then return answer("refused", describe(id, job)) end
  if job.state == "FINISHED" or job.state == "RELEASED" then return answer("finished", describe(id, job)) end
  return answer("assigned", describe(id, job))
end

local earlier = job_of(id)
if earlier then
  if earlier.gen >= gen then
    tell_attempt(earlier)
    return state_of(earlier)
  end
  dequeue(id, earlier)
  if earlier.lease ~= "" then bury_lease(id, earlier) end
end

spec = cmsgpack.unpack(spec)
-- The cell has lost its data, and the caller does not know it yet: what the session said before goes first, since nodes
-- that have had a later utterance refuse an earlier one.
if (spec.life or "") ~= "" and spec.life ~= incarnation then return answer("other_life") end
local job = {
  gen = gen, state = "CREATED", outcome = "", reason = "", kind = spec.kind, session = spec.session, index = spec.index,
  origin = spec.origin, boot = spec.boot, exec_ms = spec.exec_ms, orphan_ms = spec.orphan_ms, created = now, waiting = false,
  seq = redis.call("HINCRBY", meta, "job_seq", 1),
  lease = "", node = "", attempt = 0, tries = 0, deaths = 0, zombies = earlier and earlier.zombies or {}, excluded = {},
}
keep_job(id, job)

-- After data loss the owners of nodes told of these attempts before the session told of its job. The latest that is still
-- somebody's is the current one, the others are zombies.
local function adopt(told)
  local current
  for lease, node_id in pairs(told) do
    local node = node_of(node_id)
    local held = node.leases[lease]
    held.state = "zombie"
    job.zombies[lease] = node_id
    if held.was == "sent" and (not current or held.ceiling > current.held.ceiling) then
      current = {lease = lease, node = node_id, held = held}
    end
    keep_node(node_id, node)
  end
  keep_foreign(id, {})
  note_index(job)
  if not current then return false end
  current.held.state, current.held.until_ms = "sent", math.min(now + job.exec_ms, current.held.ceiling)
  job.zombies[current.lease] = nil
  job.lease, job.node, job.attempt = current.lease, current.node, 1
  advance(job, "CREATED", "DISPATCHED")
  redis.call("ZREM", due, "zombie " .. current.node .. " " .. current.lease)
  redis.call("ZADD", due, current.held.until_ms, "lease " .. id .. " " .. current.lease)
  return true
end

local told = foreign_of(id)
if next(told) and adopt(told) then return state_of(job) end

local function refuse(reason)
  finish(id, job, "refused", reason)
  return state_of(job)
end

-- Whoever of the first sixteen could take the slot that this job may take has it already; a slot that is still free is
-- better used than kept for one further back.
if place(id, job, spec.hints) then return state_of(job) end
if not job.waiting then enqueue(id, job) end

local able, lacking = capable(job.kind)
if able == 0 and now - tonumber(string.sub(incarnation, 1, -4)) >= rules.young_ms then
  if lacking == "" then return refuse(redis.call("HLEN", nodes) > 1 and "no_ready_node" or "no_node") end
  return refuse("lacks " .. lacking)
end
if redis.call("ZCARD", line) - 1 > rules.max_waiting then return refuse("line_full") end
return state_of(job)
