--- Open a cell: give it an incarnation and every key a sentinel, so that a slot in migration never lacks one of them.
---
--- KEYS  meta nodes jobs classes members free_counts free load line heads due indexes foreign
--- RETURNS  ok

local meta, nodes, jobs, classes, members, free_counts, free, load, line, heads, due, indexes, foreign = unpack(KEYS)

local incarnation = redis.call("HGET", meta, "incarnation")
if not incarnation then
  local clock = redis.call("TIME")
  incarnation = clock[1] .. string.format("%06d", clock[2])
  redis.call("HSET", meta, "incarnation", incarnation, "job_seq", 0)
  for _, hash in ipairs({nodes, jobs, classes, members, free_counts, load, indexes, foreign}) do
    redis.call("HSET", hash, "", "")
  end
  for _, names in ipairs({free, line}) do redis.call("ZADD", names, 0, "") end
  for _, times in ipairs({heads, due}) do redis.call("ZADD", times, "+inf", "") end
end
return {"ok", incarnation}
