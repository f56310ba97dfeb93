--- Put a node into the cell, or refresh it, with its connection's epoch, limit, class and table of leases.
---
--- A higher epoch is a new connection: older attempts become zombies. Leases of the table that the cell does not know and
--- whose job is not here are held as foreign (data loss); those whose job is here were ended by the cell and are `over`.
--- Answers `{epoch, seq, leases, over}`, a lease being `{lease, job, state, seq, ceiling_left_ms}`: everything the cell
--- holds for this node. `node` is `{epoch, owner, boot, limit, class, tokens, acks, seq, table, known}`: `seq` the highest
--- sequence that this connection was granted, `table` its leases sent and not ended, `{lease, job, sent|zombie,
--- ceiling_left_ms, seq}`; `known` lists the leases that the node says it works on (false: it did not say), older ones not
--- named are over.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, id str, spec pack
--- RETURNS  ok | stale_epoch

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, id, spec = unpack(ARGV)
--- @include "cell"
--- @include "look"
--- @include "nodes"
--- @include "leases"
--- @include "lines"
--- @include "place"
--- @include "supersede"
--- @include "lost"
--- @include "serve"
--- @include "unsent"

spec = cmsgpack.unpack(spec)
local node = node_of(id)
-- A connection that was taken out does not come back; its node claims a later epoch.
if node and (node.epoch > spec.epoch or (node.epoch == spec.epoch and node.gone ~= 0)) then
  return answer("stale_epoch", {node.epoch})
end
local same = node and node.epoch == spec.epoch
if not node then
  node = {epoch = spec.epoch, class = "", listed = "", seq = 0, since = now, unknown = 0, waking = false, leases = {}}
elseif node.epoch < spec.epoch then
  node.epoch, node.since = spec.epoch, now
  node.waking = node.class ~= ""
  node.gone = 1
  list_node(id, node)
  lose_leases(id, node, false)
end
node.owner, node.boot, node.limit, node.acks = spec.owner, spec.boot, spec.limit, spec.acks or node.acks or false
node.beat, node.gone, node.stale = now, 0, false
local counted = node.seq
node.seq = math.max(node.seq, spec.seq or 0) -- after data loss, too, since beats echo it
-- Back, and not ready yet: what it could do before counts as able for the grace, but nothing is given to it.
node.waking = node.waking and spec.class == ""
if node.waking then
  redis.call("ZADD", due, "NX", now + rules.grace_ms, "gone " .. id)
else
  redis.call("ZREM", due, "gone " .. id)
  enrol(node, spec.class, spec.tokens)
end
keep_node(id, node)

local over = {}
if spec.known then
  local known = {}
  for _, lease in ipairs(spec.known) do known[lease] = true end
  for lease, held in pairs(node.leases) do
    if (held.state == "zombie" or held.state == "foreign") and not known[lease] then
      local job = job_of(held.job)
      if job then job.zombies[lease] = nil; keep_job(held.job, job) end
      end_lease(id, node, lease)
      over[#over + 1] = lease
    end
  end
end
-- A foreign lease rests on the table's word alone. One that this table could name and does not has ended since an earlier
-- push, which came later than the answer to the lease.
local named = {}
for _, entry in ipairs(spec.table) do named[entry[1]] = true end
for lease, held in pairs(node.leases) do
  if same and held.state == "foreign" and not named[lease] and held.seq <= (spec.seq or 0) then
    end_lease(id, node, lease)
    over[#over + 1] = lease
  end
end
local born = tonumber(string.sub(incarnation, 1, -4))
for _, entry in ipairs(spec.table) do
  local lease, job_id, state, left, seq = unpack(entry)
  if not node.leases[lease] then
    local job = job_of(job_id)
    -- Sent before this cell was born, or of a sequence that it has not reached (a failover set it back): lost with the
    -- data, not ended, though the session was faster.
    local lost = now + left - rules.ceiling_ms - rules.presence_ms < born or (seq or 0) > counted
    if job and not lost then
      over[#over + 1] = lease
    else
      node.leases[lease] = {
        job = job_id, state = job and "zombie" or "foreign", was = state, seq = seq or 0, sent = now, ceiling = now + left,
      }
      redis.call("ZADD", due, now + left, "zombie " .. id .. " " .. lease)
      if job then
        job.zombies[lease] = id
        keep_job(job_id, job)
      else
        local told = foreign_of(job_id)
        told[lease] = id
        keep_foreign(job_id, told)
      end
    end
  end
end
serve(id)
local leases = {}
for lease, held in pairs(node.leases) do
  leases[#leases + 1] = {lease, held.job, held.state == "foreign" and held.was or held.state, held.seq,
    held.ceiling == 0 and 0 or math.max(0, held.ceiling - now)}
end
tell_unsent(id, node)
return answer("ok", {node.epoch, node.seq, leases, over})
