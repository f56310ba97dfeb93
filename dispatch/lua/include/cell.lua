-- The cell at this moment: incarnation, time, rules, and the records that this call touches, read once and written once.
-- A cell that does not exist (new, or Redis was emptied) answers `unopened`; the caller opens it and repeats.

local incarnation = redis.call("HGET", meta, "incarnation")
if not incarnation then return {"unopened"} end
rules = cmsgpack.unpack(rules)
local clock = redis.call("TIME")
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local grants, cancels, endings = {}, {}, {}

local node_records, node_changed = {}, {}
local function node_of(id)
  local node = node_records[id]
  if node == nil then
    local packed = redis.call("HGET", nodes, id)
    node = packed and packed ~= "" and cmsgpack.unpack(packed) or false
    node_records[id] = node
  end
  return node
end
local function keep_node(id, node)
  node_records[id], node_changed[id] = node, true
end

local job_records, job_changed = {}, {}
local function job_of(id)
  local job = job_records[id]
  if job == nil then
    local packed = redis.call("HGET", jobs, id)
    job = packed and packed ~= "" and cmsgpack.unpack(packed) or false
    job_records[id] = job
  end
  return job
end
local function keep_job(id, job)
  job_records[id], job_changed[id] = job, true
end

-- A lease that its owner has to send, for the news.
local function tell_grant(node_id, node, lease, job)
  local held = node.leases[lease]
  grants[#grants + 1] = {
    node_id, node.owner, node.epoch, lease, held.seq, held.job, job.attempt, job.session, job.index, job.origin,
  }
end

-- The attempt of this job, if it was not sent yet: whoever repeats a call may never have heard of it.
local function tell_attempt(job)
  local node = node_of(job.node)
  local held = node and node.leases[job.lease]
  if held and held.state == "granted" then tell_grant(job.node, node, job.lease, job) end
end

-- Every change of state names its arrow; `dispatch.fsm.ARROWS` lists the legal ones.
local function advance(job, from, to)
  if job.state ~= from then error("job is " .. job.state .. ", not " .. from) end
  job.state = to
end

-- Writes what changed and answers: the word, the incarnation, the packed body, and the packed news for others.
local function answer(word, body)
  for id in pairs(node_changed) do
    local node = node_records[id]
    if node then redis.call("HSET", nodes, id, cmsgpack.pack(node)) else redis.call("HDEL", nodes, id) end
  end
  for id in pairs(job_changed) do
    local job = job_records[id]
    if job then redis.call("HSET", jobs, id, cmsgpack.pack(job)) else redis.call("HDEL", jobs, id) end
  end
  return {word, incarnation, cmsgpack.pack(body or {}), cmsgpack.pack({grants, cancels, endings})}
end
