-- An attempt is given up: the job goes back to the front of its line and at once to another node, or ends when it has
-- used up its attempts. `counts` is false where the node is not to blame; `stop` tells the node to give up, too.
local function supersede(id, job, counts, stop, outcome, reason)
  local lease, node_id = job.lease, job.node
  local node = node_of(node_id)
  bury_lease(id, job)
  if stop and node then cancels[#cancels + 1] = {node_id, node.owner, node.epoch, lease, id, reason} end
  if counts then job.tries = job.tries + 1 end
  if job.deaths >= 2 then outcome, reason = "poison", "NODE_UNAVAILABLE" end
  if job.tries >= rules.tries or job.deaths >= 2 then
    finish(id, job, outcome, reason)
    endings[#endings + 1] = {id, job.session, job.index, job.origin, outcome, reason}
  else
    back_to_created(id, job)
    place(id, job, {})
  end
end
