-- A job that left its line moves another one into the sixteen that are looked at; a free node may fit it.
local function move_up(kind)
  while true do
    local moved = redis.call("ZRANGEBYLEX", line, "[" .. kind .. " ", "(" .. kind .. "!", "LIMIT", 15, 1)[1]
    local id = moved and string.match(moved, " (%S+)$")
    if not id or not place(id, job_of(id), {}) then return end
  end
end
