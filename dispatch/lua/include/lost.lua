-- The connection that held these leases is gone. Sent ones may still be worked on: they become zombies and their jobs go
-- on, the node untold, since its answer counts until somebody else has the job (DESIGN 3). `blame` counts the death of the
-- socket against the job (poison); the death of an instance is nobody's fault.
local function lose_leases(node_id, node, blame)
  local lost = {}
  for lease, held in pairs(node.leases) do
    if held.state == "foreign" then held.was = "zombie" end
    if held.state == "sent" or held.state == "granted" then lost[#lost + 1] = {held.seq, lease, held} end
  end
  table.sort(lost, function(a, b) return a[1] < b[1] end)
  for _, entry in ipairs(lost) do
    local lease, held = entry[2], entry[3]
    local job = job_of(held.job)
    if job and job.lease == lease then
      local counts = blame and held.state == "sent"
      if counts then job.deaths = job.deaths + 1 end
      supersede(held.job, job, counts, false, "failed", "NODE_UNAVAILABLE")
    else
      held.state = "zombie"
      if held.ceiling == 0 then held.ceiling = now + rules.presence_ms + rules.ceiling_ms end
      redis.call("ZADD", due, held.ceiling, "zombie " .. node_id .. " " .. lease)
    end
  end
end
