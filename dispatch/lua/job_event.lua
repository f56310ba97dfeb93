--- Report what a node did with its leases: acked, started, progress, or that the gate did not send one.
---
--- Events are `{job, lease, event, reason}`; answers per event APPLIED, ALREADY, STALE_LEASE or MISSING. `not_sent` ends
--- the lease and sends the job elsewhere; with the reason `index` this node is excluded for the job.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, node_id str, epoch int, events pack
--- RETURNS  ok | fenced | missing

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, node_id, epoch, events = unpack(ARGV)
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
if not node then return answer("missing") end
if node.epoch ~= tonumber(epoch) then return answer("fenced", {node.epoch}) end

local function mark_sent(held, job)
  if held.state == "granted" then
    held.state, held.sent, held.ceiling = "sent", now, now + rules.ceiling_ms
    held.until_ms = math.min(now + job.exec_ms, held.ceiling)
  end
end

local function give_up(id, job, reason)
  finish(id, job, "failed", reason)
  endings[#endings + 1] = {id, job.session, job.index, job.origin, "failed", reason}
end

local function not_sent(id, job, lease, reason)
  end_lease(node_id, node, lease)
  if not job then return end
  job.zombies[lease] = nil
  if reason == "index" and job.excluded then job.excluded[node_id] = true end
  keep_job(id, job)
  if job.lease == lease then
    job.lease, job.node = "", ""
    back_to_created(id, job)
    -- Speech that is gone is gone for every node; nobody is to blame, yet it must not go round for ever.
    if reason == "payload" then job.tries = job.tries + 1 end
    if job.tries >= rules.tries then return give_up(id, job, "INTERNAL_ERROR") end
    place(id, job, {})
  end
  if job.waiting and is_hopeless(job) then
    give_up(id, job, "NO_AVAILABLE_NODE")
    move_up(job.kind)
  end
end

local outcomes = {}
for _, event in ipairs(cmsgpack.unpack(events)) do
  local id, lease, what, reason = event[1], event[2], event[3], event[4]
  local held, job = node.leases[lease], job_of(id)
  local outcome = "APPLIED"
  if held and held.job ~= id then held = nil end
  if what == "acked" then node.acks = true; keep_node(node_id, node) end
  if what == "not_sent" and held then
    not_sent(id, job, lease, reason)
  elseif not job then
    outcome = "MISSING"
  elseif what == "not_sent" then
    outcome = "ALREADY"
  elseif job.lease ~= lease or not held then
    outcome = "STALE_LEASE"
  elseif what == "acked" and job.state == "DISPATCHED" then
    mark_sent(held, job)
    advance(job, "DISPATCHED", "ACCEPTED")
    redis.call("ZADD", due, held.until_ms, "lease " .. id .. " " .. lease)
    keep_job(id, job)
  elseif what ~= "acked" then
    mark_sent(held, job)
    if job.state == "DISPATCHED" then
      advance(job, "DISPATCHED", "RUNNING")
    elseif job.state == "ACCEPTED" then
      advance(job, "ACCEPTED", "RUNNING")
    else
      outcome = "ALREADY"
    end
    if what == "progress" then held.until_ms = math.min(now + job.exec_ms, held.ceiling) end
    redis.call("ZADD", due, held.until_ms, "lease " .. id .. " " .. lease)
    keep_job(id, job)
    keep_node(node_id, node)
  else
    outcome = "ALREADY"
  end
  outcomes[#outcomes + 1] = outcome
end
serve(node_id)
tell_unsent(node_id, node)
return answer("ok", outcomes)
