-- The session has it, or nobody came for it: only what answers a repeated request stays, for `retention_ms`.
local function release(id, job)
  advance(job, "FINISHED", "RELEASED")
  keep_job(id, {
    gen = job.gen, state = job.state, outcome = job.outcome, reason = job.reason, session = job.session,
    index = job.index, origin = job.origin, ended_by = job.ended_by, zombies = job.zombies, kind = job.kind, attempt = job.attempt,
    lease = "", node = "", waiting = false,
  })
  redis.call("ZADD", due, now + rules.retention_ms, "job " .. id)
end
