-- Looks only: does a class fit a kind, where does a job stand in its line, who could do it, what became of it.

-- True when the class tokens `,a,b,c,` contain every token of the kind `a,c|tenant`.
local function fits(tokens, kind)
  for token in string.gmatch(string.match(kind, "^[^|]*"), "[^,]+") do
    if not string.find(tokens, "," .. token .. ",", 1, true) then return false end
  end
  return true
end

local function line_member(id, job)
  return job.kind .. " " .. string.format("%016d", job.seq) .. " " .. id
end

-- How many jobs of its kind wait in front of this one.
local function ahead_of(id, job)
  return redis.call("ZLEXCOUNT", line, "[" .. job.kind .. " ", "(" .. line_member(id, job))
end

-- Nodes that could do this kind at all, busy ones and those in their grace included; and what the closest class lacks.
local function capable(kind)
  local total, closest, fewest = 0, "", math.huge
  for _, class in ipairs(redis.call("HKEYS", members)) do
    local tokens = class ~= "" and redis.call("HGET", classes, class)
    if tokens then
      local missing, first = 0, ""
      for token in string.gmatch(string.match(kind, "^[^|]*"), "[^,]+") do
        if not string.find(tokens, "," .. token .. ",", 1, true) then
          missing = missing + 1
          if first == "" then first = token end
        end
      end
      if missing == 0 then total = total + tonumber(redis.call("HGET", members, class)) end
      if missing > 0 and missing < fewest then fewest, closest = missing, first end
    end
  end
  return total, closest
end

-- What became of a job, as its session's instance wants to know it: state, outcome, reason, lease, node, position in the
-- line (from 1; 0 = does not wait), attempts so far, and how many nodes could do it at all (only told for a waiting job).
local function describe(id, job)
  local position, able = 0, 0
  if job.waiting then
    position = ahead_of(id, job) + 1
    able = capable(job.kind)
  end
  return {job.state, job.outcome, job.reason, job.ended_by or job.lease, job.node, position, job.attempt, able}
end
