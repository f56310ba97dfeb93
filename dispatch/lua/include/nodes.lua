-- Nodes and classes: who has a free slot.

-- Slots taken: every lease, zombies and foreign ones included, and work that the node reports and we do not know.
local function held_by(node)
  local count = node.unknown
  for _ in pairs(node.leases) do count = count + 1 end
  return count
end

local function add_to(counts, class, by)
  if redis.call("HINCRBY", counts, class, by) <= 0 then
    redis.call("HDEL", counts, class)
    return 0
  end
end

-- Keeps `free`, `free_counts` and `load` true to the node's record.
local function list_node(id, node)
  local held = held_by(node)
  local open = node.class ~= "" and node.gone == 0 and not node.stale and not node.waking and held < node.limit
  local class = open and node.class or ""
  if class ~= node.listed then
    if node.listed ~= "" then
      redis.call("ZREM", free, node.listed .. " " .. id)
      redis.call("HDEL", load, id)
      add_to(free_counts, node.listed, -1)
    end
    if class ~= "" then
      redis.call("ZADD", free, 0, class .. " " .. id)
      add_to(free_counts, class, 1)
    end
    node.listed = class
  end
  if class ~= "" then redis.call("HSET", load, id, held / node.limit) end
  keep_node(id, node)
end

-- Without a beat for three intervals it is given nothing, and what it could do counts for the grace only: perhaps its
-- instance has died, and nobody will take it out.
local function fall_silent(id, node)
  if node.stale or now - node.beat <= rules.stale_ms then return end
  node.stale = true
  redis.call("ZADD", due, "NX", now + rules.grace_ms, "gone " .. id)
end

-- Changes the class of a node in place. The class "" serves nothing; it is never counted as a member.
local function enrol(node, class, tokens)
  if class == node.class then return end
  if node.class ~= "" and add_to(members, node.class, -1) == 0 then redis.call("HDEL", classes, node.class) end
  if class ~= "" then
    redis.call("HSET", classes, class, tokens)
    add_to(members, class, 1)
  end
  node.class = class
end
