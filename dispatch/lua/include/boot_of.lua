-- The boot id in a presence document; nil when there is none, or something else lies at the key.
local function boot_of(document)
  local sound, sign = pcall(cjson.decode, document or "")
  return sound and type(sign) == "table" and type(sign.boot) == "string" and sign.boot or nil
end
