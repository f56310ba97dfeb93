-- Placement inside the cell: filter first, then sample (DESIGN 3). A node met without a beat for three intervals is
-- taken out here, so the cost falls once, on whoever meets it.

local stale_nodes = {}
math.randomseed(tonumber(string.sub(nonce, 1, 7), 16))

-- May this node have this job? Not one that works on it already, was excluded, or whose connection is younger than a
-- job that its session has overtaken: the process behind it may have refused that index for good (PROTOCOL 9.2 no. 7).
local function may_have(job, node_id, node)
  if job.excluded[node_id] then return false end
  for _, busy in pairs(job.zombies) do
    if busy == node_id then return false end
  end
  if node.since > job.created then
    return job.index >= tonumber(redis.call("HGET", indexes, job.session) or -1)
  end
  return true
end

-- True when every node that could do this job has been excluded from it.
local function is_hopeless(job)
  if next(job.excluded) == nil then return false end
  local left = capable(job.kind)
  for node_id in pairs(job.excluded) do
    local node = node_of(node_id)
    if node and node.class ~= "" and fits(redis.call("HGET", classes, node.class), job.kind) then left = left - 1 end
  end
  return left <= 0
end

-- The node with the lowest load of a random window of the class, else of the next window, until the class is through.
local function choose_in(class, job)
  local count = tonumber(redis.call("HGET", free_counts, class) or 0)
  if count == 0 then return nil end
  local first = redis.call("ZLEXCOUNT", free, "-", "(" .. class .. " ")
  local start, seen = math.random(0, count - 1), 0
  while seen < count do
    local from, size = (start + seen) % count, math.min(rules.sample, count - seen)
    local window = redis.call("ZRANGE", free, first + from, first + math.min(from + size, count) - 1)
    if from + size > count then
      local rest = redis.call("ZRANGE", free, first, first + from + size - count - 1)
      for position = 1, #rest do window[#window + 1] = rest[position] end
    end
    for position = 1, #window do window[position] = string.sub(window[position], #class + 2) end
    local loads = redis.call("HMGET", load, unpack(window))
    for position = 1, #loads do loads[position] = tonumber(loads[position]) end
    for _ = 1, #window do
      local best
      for position = 1, #window do
        if loads[position] and (not best or loads[position] < loads[best]) then best = position end
      end
      if not best then break end
      local node_id = window[best]
      local node = node_of(node_id)
      fall_silent(node_id, node)
      if node.stale then
        stale_nodes[#stale_nodes + 1] = node_id
      elseif may_have(job, node_id, node) then
        return node_id
      end
      loads[best] = nil
    end
    seen = seen + size
  end
end

-- Classes that fit the kind, the narrowest first. Hints come ordered and already fit; stale ones cost a look each.
local function choose_node(job, hints)
  for _, class in ipairs(hints) do
    local node_id = choose_in(class, job)
    if node_id then return node_id end
  end
  local fitting, flat = {}, redis.call("HKEYS", free_counts)
  for _, class in ipairs(flat) do
    local tokens = class ~= "" and redis.call("HGET", classes, class)
    if tokens and fits(tokens, job.kind) then fitting[#fitting + 1] = {#tokens, class} end
  end
  table.sort(fitting, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  for _, entry in ipairs(fitting) do
    local node_id = choose_in(entry[2], job)
    if node_id then return node_id end
  end
end

-- Leases the job to the best node, or puts it into its line. True when leased.
local function place(id, job, hints)
  local node_id = choose_node(job, hints)
  for _, stale in ipairs(stale_nodes) do list_node(stale, node_of(stale)) end
  stale_nodes = {}
  if node_id then
    dequeue(id, job)
    grant(id, job, node_id, node_of(node_id))
    return true
  end
  if not job.waiting then enqueue(id, job) end
  return false
end
