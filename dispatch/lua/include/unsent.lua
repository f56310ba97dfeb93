-- All granted and unsent leases of a node stand in every answer to its owner, so any lost answer is made good by the next.
local function tell_unsent(node_id, node)
  local told = {}
  for _, grant in ipairs(grants) do told[grant[4]] = true end
  for lease, held in pairs(node.leases) do
    if held.state == "granted" and not told[lease] then
      local job = job_of(held.job)
      if job and job.lease == lease then tell_grant(node_id, node, lease, job) end
    end
  end
end
