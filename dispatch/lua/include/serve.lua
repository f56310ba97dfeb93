-- Serve: while the node has a free slot, lease it to the oldest head among the kinds that its class fits; a head that
-- this node may not have is passed over, at most 16 deep. Every script that adds capacity ends with this.

local function next_for(node_id, node, tokens)
  local page, deep = 0, 0
  while true do
    local kinds = redis.call("ZRANGE", heads, page, page + 31)
    for _, kind in ipairs(kinds) do
      if kind ~= "" and fits(tokens, kind) then
        local waiting = redis.call("ZRANGEBYLEX", line, "[" .. kind .. " ", "(" .. kind .. "!", "LIMIT", 0, 16 - deep)
        for _, member in ipairs(waiting) do
          local id = string.match(member, " (%S+)$")
          if may_have(job_of(id), node_id, node) then return id end
          deep = deep + 1
        end
        if deep >= 16 then return nil end
      end
    end
    if #kinds < 32 then return nil end
    page = page + 32
  end
end

local function serve(node_id)
  local node = node_of(node_id)
  if not node then return end
  fall_silent(node_id, node)
  list_node(node_id, node)
  -- A record without connection, class and leases is nobody.
  if (node.gone ~= 0 or node.stale) and node.class == "" and next(node.leases) == nil then keep_node(node_id, false) end
  local tokens
  while node.listed ~= "" do
    tokens = tokens or redis.call("HGET", classes, node.class)
    local id = next_for(node_id, node, tokens)
    if not id then return end
    local job = job_of(id)
    dequeue(id, job)
    grant(id, job, node_id, node)
  end
end
