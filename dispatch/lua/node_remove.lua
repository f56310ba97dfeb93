--- Take a node out whose socket is closed: its jobs go on elsewhere, its sent attempts hold their slots as zombies.
---
--- `unsent` are leases that its connection never sent; they end at once. The class still counts as able for the grace
--- period, so that jobs wait through a short reconnect instead of being refused. A node that is not here is noted as gone
--- just as well: a push of its connection that is still on its way must not bring it back.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, id str, epoch int, unsent pack
--- RETURNS  ok | fenced

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, id, epoch, unsent = unpack(ARGV)
--- @include "cell"
--- @include "look"
--- @include "nodes"
--- @include "leases"
--- @include "lines"
--- @include "place"
--- @include "supersede"
--- @include "lost"

local node = node_of(id)
if not node then
  node = {epoch = tonumber(epoch), class = "", listed = "", limit = 0, seq = 0, since = now, beat = now, gone = 0, unknown = 0,
    stale = false, waking = false, leases = {}}
end
if node.epoch ~= tonumber(epoch) then return answer("fenced", {node.epoch}) end
if node.gone == 0 then
  node.gone = now
  list_node(id, node)
  for _, lease in ipairs(cmsgpack.unpack(unsent)) do
    local held = node.leases[lease]
    if held and not held.sent then
      local job = job_of(held.job)
      end_lease(id, node, lease)
      if job then job.zombies[lease] = nil; keep_job(held.job, job) end
      if job and job.lease == lease then
        job.lease, job.node = "", ""
        back_to_created(held.job, job)
        place(held.job, job, {})
      end
    end
  end
  lose_leases(id, node, true)
  redis.call("ZADD", due, now + rules.grace_ms, "gone " .. id)
end
return answer("ok")
