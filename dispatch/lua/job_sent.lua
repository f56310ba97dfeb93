--- Note that the owner connection has sent these leases to the node: execution time and ceiling run from now.
---
--- Answers per lease APPLIED, ALREADY or STALE_LEASE.
---
--- KEYS  meta nodes jobs due
--- ARGV  rules pack, node_id str, epoch int, leases pack
--- RETURNS  ok | fenced | missing

local meta, nodes, jobs, due = unpack(KEYS)
local rules, node_id, epoch, leases = unpack(ARGV)
--- @include "cell"
--- @include "unsent"

local node = node_of(node_id)
if not node then return answer("missing") end
if node.epoch ~= tonumber(epoch) then return answer("fenced", {node.epoch}) end
local outcomes = {}
for _, lease in ipairs(cmsgpack.unpack(leases)) do
  local held = node.leases[lease]
  if not held then
    outcomes[#outcomes + 1] = "STALE_LEASE"
  elseif held.sent then
    outcomes[#outcomes + 1] = "ALREADY"
  else
    held.sent, held.ceiling = now, now + rules.ceiling_ms
    local job = job_of(held.job)
    if held.state == "granted" and job then
      held.state = "sent"
      held.until_ms = math.min(now + job.exec_ms, held.ceiling)
      redis.call("ZADD", due, node.acks and math.min(now + rules.ack_ms, held.until_ms) or held.until_ms,
        "lease " .. held.job .. " " .. lease)
    else
      redis.call("ZADD", due, "XX", held.ceiling, "zombie " .. node_id .. " " .. lease)
    end
    keep_node(node_id, node)
    outcomes[#outcomes + 1] = "APPLIED"
  end
end
tell_unsent(node_id, node)
return answer("ok", outcomes)
