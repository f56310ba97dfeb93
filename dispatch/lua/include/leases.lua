-- Leases: `granted -> sent -> ended`, or `zombie -> ended`. A superseded attempt keeps its slot as a zombie.

-- The highest index of a session that any node was given (may_have).
local function note_index(job)
  if job.index > tonumber(redis.call("HGET", indexes, job.session) or -1) then
    redis.call("HSET", indexes, job.session, job.index)
  end
end

-- Leases that owners told of and whose job is not in this cell: lease -> node.
local function foreign_of(job_id)
  local packed = redis.call("HGET", foreign, job_id)
  return packed and cmsgpack.unpack(packed) or {}
end

local function keep_foreign(job_id, told)
  if next(told) then redis.call("HSET", foreign, job_id, cmsgpack.pack(told)) else redis.call("HDEL", foreign, job_id) end
end

local function grant(id, job, node_id, node)
  -- The nonce alone would name two leases alike when a call is repeated: a retry carries the same one.
  local lease = nonce .. string.format("%x", redis.call("HINCRBY", meta, "lease_seq", 1))
  advance(job, "CREATED", "DISPATCHED")
  node.seq = node.seq + 1
  node.leases[lease] = {job = id, state = "granted", seq = node.seq, ceiling = 0}
  job.attempt, job.lease, job.node = job.attempt + 1, lease, node_id
  note_index(job)
  redis.call("ZADD", due, now + rules.unsent_ms, "lease " .. id .. " " .. lease)
  keep_job(id, job)
  list_node(node_id, node)
  tell_grant(node_id, node, lease, job)
end

-- The slot becomes free. The caller lists and serves the node afterwards.
local function end_lease(node_id, node, lease)
  local held = node.leases[lease]
  if not held then return end
  redis.call("ZREM", due, "lease " .. held.job .. " " .. lease, "zombie " .. node_id .. " " .. lease)
  if held.state == "foreign" then
    local told = foreign_of(held.job)
    told[lease] = nil
    keep_foreign(held.job, told)
  end
  node.leases[lease] = nil
  keep_node(node_id, node)
end

-- The current attempt no longer counts as the job's, but the node may still work on it: its slot stays held until the
-- ceiling. A granted lease may have been sent by a process that died before it said so, hence one presence TTL more.
local function bury_lease(id, job)
  local lease, node_id = job.lease, job.node
  local node = node_of(node_id)
  local held = node and node.leases[lease]
  redis.call("ZREM", due, "lease " .. id .. " " .. lease)
  if held then
    if held.state == "granted" then held.ceiling = now + rules.presence_ms + rules.ceiling_ms end
    held.state = "zombie"
    redis.call("ZADD", due, held.ceiling, "zombie " .. node_id .. " " .. lease)
    job.zombies[lease] = node_id
    keep_node(node_id, node)
  end
  job.lease, job.node = "", ""
  keep_job(id, job)
end

local function back_to_created(id, job)
  if job.state == "DISPATCHED" then
    advance(job, "DISPATCHED", "CREATED")
  elseif job.state == "ACCEPTED" then
    advance(job, "ACCEPTED", "CREATED")
  else
    advance(job, "RUNNING", "CREATED")
  end
  keep_job(id, job)
end
