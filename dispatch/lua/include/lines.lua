-- Lines: the waiting jobs of one kind, oldest first by the job's sequence, so that a superseded job is again in front.

local function enqueue(id, job)
  redis.call("ZADD", line, 0, line_member(id, job))
  local head = redis.call("ZSCORE", heads, job.kind)
  if not head or job.seq < tonumber(head) then redis.call("ZADD", heads, job.seq, job.kind) end
  redis.call("ZADD", due, job.created + job.orphan_ms, "job " .. id)
  job.waiting = true
  keep_job(id, job)
end

local function dequeue(id, job)
  if not job.waiting then return end
  redis.call("ZREM", line, line_member(id, job))
  local first = redis.call("ZRANGEBYLEX", line, "[" .. job.kind .. " ", "(" .. job.kind .. "!", "LIMIT", 0, 1)[1]
  if first then
    redis.call("ZADD", heads, tonumber(string.match(first, " (%d+) %S+$")), job.kind)
  else
    redis.call("ZREM", heads, job.kind)
  end
  job.waiting = false
  keep_job(id, job)
end

local function finish(id, job, outcome, reason)
  dequeue(id, job)
  if job.state == "CREATED" then
    advance(job, "CREATED", "FINISHED")
  elseif job.state == "DISPATCHED" then
    advance(job, "DISPATCHED", "FINISHED")
  elseif job.state == "ACCEPTED" then
    advance(job, "ACCEPTED", "FINISHED")
  else
    advance(job, "RUNNING", "FINISHED")
  end
  job.outcome, job.reason = outcome, reason
  redis.call("ZADD", due, now + rules.unclaimed_ms, "job " .. id)
  keep_job(id, job)
end
