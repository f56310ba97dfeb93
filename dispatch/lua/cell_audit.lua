--- Recompute, for one page of nodes, what the cell keeps about them, and name what differs; changes nothing.
---
--- Answers `{cursor, faults, held, waiting}`: the next cursor ("0" = through), sentences, slots held on this page, and the
--- waiting jobs. Also looks whether one of the first sixteen waiting heads fits a free slot of a node of the page.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- ARGV  nonce str, rules pack, cursor str
--- RETURNS  ok

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)
local nonce, rules, cursor = unpack(ARGV)
--- @include "cell"
--- @include "look"
--- @include "nodes"
--- @include "leases"
--- @include "lines"
--- @include "place"
--- @include "serve"

local faults, held_on_page = {}, 0
local function fault(...) faults[#faults + 1] = table.concat({...}, " ") end

local page = redis.call("HSCAN", nodes, cursor, "COUNT", 64)
for position = 1, #page[2], 2 do
  local id = page[2][position]
  local node = id ~= "" and node_of(id)
  if node then
    local held = held_by(node)
    held_on_page = held_on_page + held
    if held - node.unknown > node.limit then fault("node", id, "holds", held - node.unknown, "of", node.limit) end
    local open = node.class ~= "" and node.gone == 0 and not node.stale and not node.waking and held < node.limit
    if open ~= (node.listed ~= "") then fault("node", id, "is listed wrongly") end
    if node.listed ~= "" then
      if node.listed ~= node.class then fault("node", id, "is listed under another class") end
      if not redis.call("ZSCORE", free, node.listed .. " " .. id) then fault("node", id, "is missing in free") end
      local waits = next_for(id, node, redis.call("HGET", classes, node.class) or ",")
      if waits then fault("job", waits, "waits while node", id, "is free") end
    end
    for lease, slot in pairs(node.leases) do
      local job = job_of(slot.job)
      if slot.state == "granted" or slot.state == "sent" then
        if not job or job.lease ~= lease then fault("lease", lease, "is nobody's current attempt") end
        if not redis.call("ZSCORE", due, "lease " .. slot.job .. " " .. lease) then fault("lease", lease, "has no due step") end
      elseif not redis.call("ZSCORE", due, "zombie " .. id .. " " .. lease) then
        fault("zombie", lease, "has no due step")
      end
    end
  end
end
if cursor == "0" then
  local listed = 0
  for _, count in ipairs(redis.call("HVALS", free_counts)) do listed = listed + (tonumber(count) or 0) end
  if listed ~= redis.call("ZCARD", free) - 1 then fault("free_counts", listed, "differ from free", redis.call("ZCARD", free) - 1) end
end
return {"ok", incarnation, cmsgpack.pack({page[1], faults, held_on_page, redis.call("ZCARD", line) - 1})}
