--- Take a node's heartbeat: its class in place, the work it reports, and what it no longer knows of.
---
--- `beat` is `{epoch, class, tokens, running, seq, known}`. Work reported above the leases it could know of is held as
--- unknown until the next beat. With `known` (lease ids, else false), sent leases up to the echoed assign sequence `seq`
--- that the node does not name have ended without an answer: their jobs go on. Answers the zombies `{lease, job}` that
--- the owner should tell to stop.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, id str, beat pack
--- RETURNS  ok | missing | fenced

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, id, beat = unpack(ARGV)
--- @include "cell"
--- @include "look"
--- @include "nodes"
--- @include "leases"
--- @include "lines"
--- @include "place"
--- @include "supersede"
--- @include "serve"
--- @include "unsent"

beat = cmsgpack.unpack(beat)
local node = node_of(id)
if not node then return answer("missing") end
if node.epoch ~= beat.epoch or node.gone ~= 0 then return answer("fenced", {node.epoch}) end
if node.waking or node.stale then redis.call("ZREM", due, "gone " .. id) end
node.beat, node.stale, node.waking = now, false, false
enrol(node, beat.class, beat.tokens)
keep_node(id, node)

if beat.known then
  local known, lost = {}, {}
  for _, lease in ipairs(beat.known) do known[lease] = true end
  for lease, held in pairs(node.leases) do
    if held.state ~= "granted" and held.seq <= beat.seq and not known[lease] then lost[#lost + 1] = {held.seq, lease, held} end
  end
  table.sort(lost, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  for _, entry in ipairs(lost) do
    local lease, held = entry[2], entry[3]
    local job = job_of(held.job)
    local current = job and job.lease == lease
    if current then supersede(held.job, job, true, false, "failed", "NODE_UNAVAILABLE") end
    if job then job.zombies[lease] = nil; keep_job(held.job, job) end
    end_lease(id, node, lease)
  end
end

local knowable, zombies = 0, {}
for lease, held in pairs(node.leases) do
  if held.state ~= "granted" then knowable = knowable + 1 end
  if held.state == "zombie" then zombies[#zombies + 1] = {lease, held.job} end
end
node.unknown = math.max(0, beat.running - knowable)
serve(id)
tell_unsent(id, node)
return answer("ok", zombies)
