-- A dissector of the Trishake protocol, version 1, for Wireshark and tshark 4.0 and newer (Lua 5.2 to 5.4).
--
--     tshark -X lua_script:trishake.lua -r capture.pcapng
--     tshark -X lua_script:trishake.lua -o trishake.key_log_file:keys.txt -r capture.pcapng
--
-- Or put it into the folder that Help > About > Folders calls Personal Lua Plugins.
--
-- A connection is known by the magic at its beginning, on any port; one whose beginning was not captured is left
-- alone. With a key log (TRISHAKE_KEY_LOG) greetings and records are decrypted. Tags are not checked: where packets
-- are missing, what follows in that direction decrypts to noise, and is marked. Section numbers are SPEC.md's.
--
-- Everything here comes from the network: bytes are taken from Lua strings, where what is missing is nil, and ranges
-- of a Tvb are made only behind a check of the length.

local trishake = Proto("trishake", "Trishake")

local MAGIC = "\240\159\164\157"
local TAG = 16
local REKEY_INTERVAL = 65536

-- What is equal in Lua 5.2, which has no operators for bits, and in 5.4, which has no bit32. --------------------

local bxor, band, bnot, lrotate, rshift
if bit32 then
  bxor, band, bnot, lrotate, rshift = bit32.bxor, bit32.band, bit32.bnot, bit32.lrotate, bit32.rshift
else
  -- As text, for to Lua 5.2 it is no Lua.
  bxor, band, bnot, lrotate, rshift = load([[
    return function(a, b) return a ~ b end,
      function(a, b) return a & b end,
      function(a) return ~a & 0xffffffff end,
      function(a, n) return (a << n | a >> 32 - n) & 0xffffffff end,
      function(a, n) return a >> n end
  ]])()
end
local floor = math.floor

-- SHA-256, for the check characters of a peer id ----------------------------------------------------------------

local function fraction(x)
  return floor((x - floor(x)) * 4294967296)
end

local ROUND, INITIAL = {}, {}
do
  local n = 2
  while #ROUND < 64 do
    local prime = true
    for i = 2, floor(n ^ 0.5) do
      prime = prime and n % i ~= 0
    end
    if prime then
      ROUND[#ROUND + 1] = fraction(n ^ (1 / 3))
      if #INITIAL < 8 then
        INITIAL[#INITIAL + 1] = fraction(n ^ 0.5)
      end
    end
    n = n + 1
  end
end

local function big_endian(s, i)
  local a, b, c, d = s:byte(i, i + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function word_bytes(w)
  return string.char(floor(w / 16777216) % 256, floor(w / 65536) % 256, floor(w / 256) % 256, w % 256)
end

local function sha256(s)
  local padded = s .. "\128" .. ("\0"):rep((55 - #s) % 64 + 4) .. word_bytes(#s * 8)
  local h = { (unpack or table.unpack)(INITIAL) }
  for block = 1, #padded, 64 do
    local w = {}
    for i = 1, 16 do
      w[i] = big_endian(padded, block + 4 * (i - 1))
    end
    for i = 17, 64 do
      local x, y = w[i - 15], w[i - 2]
      local s0 = bxor(bxor(lrotate(x, 25), lrotate(x, 14)), rshift(x, 3))
      local s1 = bxor(bxor(lrotate(y, 15), lrotate(y, 13)), rshift(y, 10))
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) % 4294967296
    end
    local a, b, c, d, e, f, g, k = h[1], h[2], h[3], h[4], h[5], h[6], h[7], h[8]
    for i = 1, 64 do
      local s1 = bxor(bxor(lrotate(e, 26), lrotate(e, 21)), lrotate(e, 7))
      local t1 = k + s1 + bxor(band(e, f), band(bnot(e), g)) + ROUND[i] + w[i]
      local s0 = bxor(bxor(lrotate(a, 30), lrotate(a, 19)), lrotate(a, 10))
      local t2 = s0 + bxor(bxor(band(a, b), band(a, c)), band(b, c))
      a, b, c, d, e, f, g, k = (t1 + t2) % 4294967296, a, b, c, (d + t1) % 4294967296, e, f, g
    end
    for i, x in ipairs { a, b, c, d, e, f, g, k } do
      h[i] = (h[i] + x) % 4294967296
    end
  end
  local digest = {}
  for i = 1, 8 do
    digest[i] = word_bytes(h[i])
  end
  return table.concat(digest)
end

-- The text form of section 6, of 32 bytes.
local function peer_id(key)
  local raw = "\1" .. key
  raw = raw .. sha256("trishake/1 peer id\0" .. raw):sub(1, 2)
  local text, bits, value = {}, 0, 0
  for i = 1, #raw do
    value, bits = value * 256 + raw:byte(i), bits + 8
    while bits >= 5 do
      bits = bits - 5
      local index = floor(value / 2 ^ bits) + 1
      text[#text + 1] = ("abcdefghijklmnopqrstuvwxyz234567"):sub(index, index)
      value = value % floor(2 ^ bits)
    end
  end
  return table.concat(text)
end

-- ChaCha20 (RFC 8439) with the nonces of Noise -----------------------------------------------------------------

local function little_endian(s, i)
  local a, b, c, d = s:byte(i, i + 3)
  return ((d * 256 + c) * 256 + b) * 256 + a
end

local function quarter(x, a, b, c, d)
  local p, q, r, s = x[a], x[b], x[c], x[d]
  p = (p + q) % 4294967296
  s = lrotate(bxor(s, p), 16)
  r = (r + s) % 4294967296
  q = lrotate(bxor(q, r), 12)
  p = (p + q) % 4294967296
  s = lrotate(bxor(s, p), 8)
  r = (r + s) % 4294967296
  q = lrotate(bxor(q, r), 7)
  x[a], x[b], x[c], x[d] = p, q, r, s
end

-- The block that stands in `state`, as 16 words.
local function chacha20_block(state)
  local x = {}
  for i = 1, 16 do
    x[i] = state[i]
  end
  for _ = 1, 10 do
    quarter(x, 1, 5, 9, 13)
    quarter(x, 2, 6, 10, 14)
    quarter(x, 3, 7, 11, 15)
    quarter(x, 4, 8, 12, 16)
    quarter(x, 1, 6, 11, 16)
    quarter(x, 2, 7, 12, 13)
    quarter(x, 3, 8, 9, 14)
    quarter(x, 4, 5, 10, 15)
  end
  for i = 1, 16 do
    x[i] = (x[i] + state[i]) % 4294967296
  end
  return x
end

-- `text` without its tag, under a key of 32 bytes. low, high: the two words of the nonce's counter.
local function chacha20(key, low, high, text)
  local state = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 }
  for i = 1, 8 do
    state[4 + i] = little_endian(key, 4 * i - 3)
  end
  state[14], state[15], state[16] = 0, low, high
  local padded = text .. ("\0"):rep(-#text % 64)
  local parts = {}
  for block = 1, #padded / 64 do
    state[13] = block -- block 0 is the tag's
    local x = chacha20_block(state)
    for i = 1, 16 do
      local w = bxor(x[i], little_endian(padded, 64 * block + 4 * i - 67))
      parts[#parts + 1] = string.char(w % 256, floor(w / 256) % 256, floor(w / 65536) % 256, floor(w / 16777216))
    end
  end
  return table.concat(parts):sub(1, #text)
end

local function decrypt(key, n, ciphertext)
  return chacha20(key, n % 4294967296, floor(n / 4294967296), ciphertext:sub(1, -1 - TAG))
end

local function rekeyed(key)
  return chacha20(key, 4294967295, 4294967295, ("\0"):rep(32))
end

-- The key log --------------------------------------------------------------------------------------------------

trishake.prefs.key_log_file = Pref.string(
  "Key log file",
  os.getenv("TRISHAKE_KEY_LOG") or "",
  "What a program of yours has written that was started with TRISHAKE_KEY_LOG set to this path"
)

local key_log = { path = nil, read = 0, keys = {} }

local function read_key_log()
  local path = trishake.prefs.key_log_file
  if path ~= key_log.path then
    key_log = { path = path, read = 0, keys = {} }
  end
  local file = path ~= "" and io.open(path, "rb")
  if not file then
    return
  end
  local size = file:seek("end") or 0
  if size < key_log.read then
    key_log.read = 0
  end
  if size > key_log.read and file:seek("set", key_log.read) then
    local lines = (file:read("*a") or ""):match("^.*\n") or ""
    key_log.read = key_log.read + #lines
    for label, e, key in lines:gmatch("(TRISHAKE_[%u_]+) (%x+) (%x+)") do
      if #e == 64 and #key == 64 then
        local raw = key:gsub("%x%x", function(digits)
          return string.char(tonumber(digits, 16))
        end)
        key_log.keys[label .. " " .. e:lower()] = raw
      end
    end
  end
  file:close()
end

-- e: the initiator's, 64 hex digits. The file may have grown since the last look: a capture may be live.
local function logged_key(label, e)
  local name = label .. " " .. (e or "")
  if e and not key_log.keys[name] then
    read_key_log()
  end
  return key_log.keys[name]
end

-- Names --------------------------------------------------------------------------------------------------------

local SYN, SYN_ACK, ACK, RECORD, ALERT = 0x01, 0x02, 0x03, 0x10, 0x7f
local FRAME_NAMES = { [SYN] = "SYN", [SYN_ACK] = "SYN-ACK", [ACK] = "ACK", [RECORD] = "RECORD", [ALERT] = "ALERT" }

-- Section 5: bytes of each part of SYN and SYN-ACK, tags included.
local SUITES = {
  [0x0001] = { name = "XX_25519", e1 = 0, syn_tag = 0, ekem1 = 0 },
  [0x0002] = { name = "XXhfs_25519+MLKEM768", e1 = 1184, syn_tag = 0, ekem1 = 1104 },
  [0x0101] = { name = "XXpsk0_25519", e1 = 0, syn_tag = TAG, ekem1 = 0 },
  [0x0102] = { name = "XXhfs+psk0_25519+MLKEM768", e1 = 1184 + TAG, syn_tag = TAG, ekem1 = 1104 },
}
local SUITE_NAMES = {}
for id, suite in pairs(SUITES) do
  SUITE_NAMES[id] = "Noise_" .. suite.name .. "_ChaChaPoly_SHA256"
end
local MIN_GREETING, MAX_GREETING = 128, 16384

local BUSY, UNSUPPORTED_VERSION, UNSUPPORTED_SUITE, ABORTED = 0x05, 0x02, 0x03, 0x0a
local ALERT_NAMES = {
  [0x01] = "MALFORMED",
  [UNSUPPORTED_VERSION] = "UNSUPPORTED_VERSION",
  [UNSUPPORTED_SUITE] = "UNSUPPORTED_SUITE",
  [0x04] = "WRONG_NETWORK",
  [BUSY] = "BUSY",
  [0x06] = "HANDSHAKE_FAILED",
  [0x07] = "TIMEOUT",
  [0x08] = "GOING_AWAY",
  [ABORTED] = "ABORTED",
}

local DATA, VERDICT, CLOSE, PING = 1, 2, 3, 4
local RECORD_NAMES = { [DATA] = "DATA", [VERDICT] = "VERDICT", [CLOSE] = "CLOSE", [PING] = "PING" }
local VERDICT_NAMES = {
  [0x0000] = "READY",
  [0x0101] = "BAD_SIGNATURE",
  [0x0102] = "BAD_IDENTITY_KEY",
  [0x0103] = "BAD_GREETING",
  [0x0104] = "UNSUPPORTED_CRITICAL",
  [0x0105] = "EXPIRED",
  [0x0106] = "DOWNGRADE",
  [0x0107] = "SELF",
  [0x0201] = "IDENTITY_UNKNOWN",
  [0x0202] = "IDENTITY_BLOCKED",
  [0x0203] = "POLICY",
  [0x0301] = "DUPLICATE",
  [0x0302] = "CROSSING",
  [0x0303] = "CAPACITY",
  [0x0304] = "SHUTTING_DOWN",
  [0x0305] = "POLICY_TIMEOUT",
  [0x0306] = "INTERNAL",
}
local CLOSE_NAMES = {
  [0] = "NORMAL",
  [1] = "PROTOCOL",
  [2] = "INTERNAL",
  [3] = "GOING_AWAY",
  [4] = "IDLE",
  [5] = "REPLACED",
  [6] = "KEY_LIMIT",
  [7] = "FLOW_CONTROL",
  [8] = "POLICY",
}
local MUX_DATA, MUX_WINDOW_UPDATE, MUX_PING, MUX_GO_AWAY = 0, 1, 2, 3
local MUX_NAMES = {
  [MUX_DATA] = "DATA",
  [MUX_WINDOW_UPDATE] = "WINDOW_UPDATE",
  [MUX_PING] = "PING",
  [MUX_GO_AWAY] = "GO_AWAY",
}
local MUX_FLAGS = { "SYN", "ACK", "FIN", "RST" }
local ANSWERS = { [0] = "accepted", [1] = "unknown protocol", [2] = "refused" }

-- Fields -------------------------------------------------------------------------------------------------------

local F = {
  greeting_id = ProtoField.string("trishake.greeting_id", "Greeting id"),
  initiator = ProtoField.bool("trishake.from_initiator", "From the initiator"),
  magic = ProtoField.bytes("trishake.magic", "Magic"),
  version = ProtoField.uint8("trishake.version", "Version"),
  version_max = ProtoField.uint8("trishake.version_max", "Highest version"),
  suite = ProtoField.uint16("trishake.suite", "Suite", base.HEX, SUITE_NAMES),
  n_offers = ProtoField.uint8("trishake.n_offers", "Number of offers"),
  ext_len = ProtoField.uint16("trishake.ext_len", "Extension length"),
  net_tag = ProtoField.bytes("trishake.net_tag", "Network tag"),
  offer = ProtoField.uint16("trishake.offer", "Offer", base.HEX, SUITE_NAMES),
  ext = ProtoField.bytes("trishake.ext", "Extension"),

  type = ProtoField.uint8("trishake.type", "Frame type", base.HEX, FRAME_NAMES),
  length = ProtoField.uint16("trishake.length", "Length"),
  e = ProtoField.bytes("trishake.e", "e, ephemeral key"),
  e1 = ProtoField.bytes("trishake.e1", "e1, ML-KEM-768 encapsulation key"),
  ekem1 = ProtoField.bytes("trishake.ekem1", "ekem1, ML-KEM-768 ciphertext, encrypted"),
  syn_tag = ProtoField.bytes("trishake.syn_tag", "Tag, by the network's key"),
  s = ProtoField.bytes("trishake.s", "s, static key, encrypted"),
  greeting = ProtoField.bytes("trishake.greeting", "Greeting, encrypted"),
  ciphertext = ProtoField.bytes("trishake.record.ciphertext", "Ciphertext and tag"),

  alert = ProtoField.uint8("trishake.alert", "Alert", base.HEX, ALERT_NAMES),
  alert_lowest = ProtoField.uint8("trishake.alert.version_lowest", "Lowest version"),
  alert_highest = ProtoField.uint8("trishake.alert.version_highest", "Highest version"),
  alert_suite = ProtoField.uint16("trishake.alert.suite", "Enabled suite", base.HEX, SUITE_NAMES),
  alert_retry = ProtoField.uint16("trishake.alert.retry_after", "Retry after, seconds"),
  alert_detail = ProtoField.bytes("trishake.alert.detail", "Detail"),

  -- decrypted
  static_key = ProtoField.bytes("trishake.static_key", "Static key"),
  record_n = ProtoField.uint32("trishake.record.number", "Record number in its direction"),
  record_type = ProtoField.uint8("trishake.record.type", "Record type", base.DEC, RECORD_NAMES),
  padding = ProtoField.bytes("trishake.record.padding", "Padding"),
  data = ProtoField.bytes("trishake.data", "Data"),
  peer = ProtoField.string("trishake.peer", "Peer id"),
  agent = ProtoField.string("trishake.greeting.agent", "agent"),
  alg = ProtoField.string("trishake.greeting.alg", "alg"),
  app = ProtoField.bytes("trishake.greeting.app", "app"),
  exp = ProtoField.uint32("trishake.greeting.exp", "exp"),
  id = ProtoField.bytes("trishake.greeting.id", "id"),
  role = ProtoField.string("trishake.greeting.role", "role"),
  time = ProtoField.uint32("trishake.greeting.time", "time"),
  ver = ProtoField.uint32("trishake.greeting.ver", "ver"),
  signature = ProtoField.bytes("trishake.greeting.signature", "Signature"),
  verdict = ProtoField.uint16("trishake.verdict", "code", base.HEX, VERDICT_NAMES),
  verdict_retry = ProtoField.uint32("trishake.verdict.retry", "retry"),
  verdict_seen = ProtoField.string("trishake.verdict.seen", "seen"),
  verdict_text = ProtoField.string("trishake.verdict.text", "text"),
  close = ProtoField.uint16("trishake.close", "code", base.DEC, CLOSE_NAMES),
  close_text = ProtoField.string("trishake.close.text", "text"),
  ping_answer = ProtoField.uint8("trishake.ping.answer", "Kind", base.DEC, { [0] = "asks", [1] = "answers" }),
  ping = ProtoField.bytes("trishake.ping", "Payload"),
  mux_version = ProtoField.uint8("trishake.mux.version", "Version"),
  mux_type = ProtoField.uint8("trishake.mux.type", "Type", base.DEC, MUX_NAMES),
  mux_flags = ProtoField.uint16("trishake.mux.flags", "Flags", base.HEX),
  mux_stream = ProtoField.uint32("trishake.mux.stream", "Stream"),
  mux_length = ProtoField.uint32("trishake.mux.length", "Length"),
  mux_protocol = ProtoField.string("trishake.mux.protocol", "Protocol of the stream"),
  mux_answer = ProtoField.uint8("trishake.mux.answer", "Answer to the stream", base.DEC, ANSWERS),
}
trishake.fields = F

local E = {
  malformed = ProtoExpert.new("trishake.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR),
  unfit = ProtoExpert.new("trishake.unfit", "Out of place", expert.group.PROTOCOL, expert.severity.WARN),
  refused = ProtoExpert.new("trishake.refused", "Refused", expert.group.RESPONSE_CODE, expert.severity.NOTE),
  undecrypted = ProtoExpert.new("trishake.undecrypted", "Not decrypted", expert.group.DECRYPTION, expert.severity.WARN),
  incomplete = ProtoExpert.new("trishake.incomplete", "Incomplete", expert.group.UNDECODED, expert.severity.NOTE),
}
trishake.experts = E

local tcp_stream = Field.new("tcp.stream")
local tcp_seq = Field.new("tcp.seq")

-- Small things -------------------------------------------------------------------------------------------------

local function u16(s, i)
  local a, b = s:byte(i, i + 1)
  return a * 256 + b
end

-- What the other side wrote, for a label or a column.
local function printable(s)
  return (s:sub(1, 64):gsub("[^\32-\126]", function(c)
    return string.format("\\x%02x", c:byte())
  end))
end

local function hex(s)
  return (s:gsub(".", function(c)
    return string.format("%02x", c:byte())
  end))
end

local function named(names, number)
  return names[number] or string.format(number < 65536 and "0x%04x" or "%.0f", number)
end

local function private_tvb(bytes, name)
  return ByteArray.new(bytes, true):tvb(name)
end

local function say(pinfo, text)
  local info = pinfo.cols.info
  -- TCP hands us the rest of a segment anew: what was said of its beginning stays.
  if pinfo.private["trishake"] then
    text = ", " .. text
  else
    pinfo.cols.protocol = "Trishake"
    info:clear()
    pinfo.private["trishake"] = "1"
  end
  info:append(text)
end

-- msgpack ------------------------------------------------------------------------------------------------------

local MSGPACK_DEPTH = 16

-- The value at `at` (from 1) as a node; nil if it is none. A node: kind, first and last byte, and by kind `value`,
-- `items`: those of a map are its keys and values in turn.
local function msgpack(s, at, depth)
  local b = s:byte(at)
  if not b or depth > MSGPACK_DEPTH then
    return nil
  end

  local function unsigned(i, size) -- nil if bytes are missing
    local value = 0
    for j = i, i + size - 1 do
      local byte = s:byte(j)
      if not byte then
        return nil
      end
      value = value * 256.0 + byte
    end
    return value < 9007199254740992 and floor(value) or value
  end

  local function scalar(kind, value, size)
    return { kind = kind, value = value, first = at, last = at + size }
  end

  local function bytes(kind, header, size)
    if not size or at + header + size > #s then
      return nil
    end
    local node = scalar(kind, s:sub(at + 1 + header, at + header + size), header + size)
    node.content = at + 1 + header
    return node
  end

  local function items(kind, header, size)
    if not size then
      return nil
    end
    local node = { kind = kind, first = at, items = {} }
    local next_at = at + 1 + header
    for i = 1, kind == "map" and 2 * size or size do
      local item = msgpack(s, next_at, depth + 1)
      if not item then
        return nil
      end
      node.items[i], next_at = item, item.last + 1
    end
    node.last = next_at - 1
    return node
  end

  if b <= 0x7f then
    return scalar("int", b, 0)
  elseif b <= 0x8f then
    return items("map", 0, b - 0x80)
  elseif b <= 0x9f then
    return items("array", 0, b - 0x90)
  elseif b <= 0xbf then
    return bytes("str", 0, b - 0xa0)
  elseif b == 0xc0 then
    return scalar("nil", "nil", 0)
  elseif b == 0xc2 or b == 0xc3 then
    return scalar("bool", tostring(b == 0xc3), 0)
  elseif b >= 0xc4 and b <= 0xc6 then
    local size = 2 ^ (b - 0xc4)
    return bytes("bin", size, unsigned(at + 1, size))
  elseif b >= 0xc7 and b <= 0xc9 then
    local size = 2 ^ (b - 0xc7)
    local length = unsigned(at + 1, size)
    return bytes("ext", size, length and length + 1)
  elseif b == 0xca or b == 0xcb then
    return bytes("float", 0, b == 0xca and 4 or 8)
  elseif b >= 0xcc and b <= 0xd3 then
    local size = 2 ^ (b % 4)
    local value = unsigned(at + 1, size)
    if value and b >= 0xd0 and value >= 2 ^ (8 * size - 1) then
      value = value - 2 ^ (8 * size)
    end
    return value and scalar("int", value, size)
  elseif b >= 0xd4 and b <= 0xd8 then
    return bytes("ext", 0, 1 + 2 ^ (b - 0xd4))
  elseif b >= 0xd9 and b <= 0xdb then
    local size = 2 ^ (b - 0xd9)
    return bytes("str", size, unsigned(at + 1, size))
  elseif b == 0xdc or b == 0xdd then
    local size = 2 ^ (b - 0xdb)
    return items("array", size, unsigned(at + 1, size))
  elseif b == 0xde or b == 0xdf then
    local size = 2 ^ (b - 0xdd)
    return items("map", size, unsigned(at + 1, size))
  elseif b >= 0xe0 then
    return scalar("int", b - 256, 0)
  end
  return nil
end

local function unpacked(s)
  local node = msgpack(s, 1, 1)
  return node and node.last == #s and node or nil
end

local function shown(node)
  if node.kind == "str" then
    return '"' .. printable(node.value) .. '"'
  elseif node.kind == "int" then
    return string.format("%.0f", node.value)
  elseif node.value and node.kind ~= "nil" and node.kind ~= "bool" then
    return node.kind .. " of " .. #node.value .. " bytes"
  end
  return node.value
end

-- The value of a key, if it is of that kind.
local function value_of(map, key, kind)
  for i = 1, #map.items, 2 do
    if map.items[i].value == key and map.items[i + 1].kind == kind then
      return map.items[i + 1]
    end
  end
  return nil
end

-- Add a node and all below it. fields: by key, the field that shows it where it is a scalar that fits.
local function add_node(tree, tvb, start, node, label, fields)
  local range = tvb(start + node.first - 1, node.last - node.first + 1)
  if node.items then
    local below = tree:add(range, label .. node.kind)
    local step = node.kind == "map" and 2 or 1
    for i = 1, #node.items, step do
      if step == 1 then
        add_node(below, tvb, start, node.items[i], "", {})
      else
        local key, value = node.items[i], node.items[i + 1]
        local name = key.kind == "str" and printable(key.value) or key.items and key.kind or shown(key)
        local field = key.kind == "str" and fields[key.value] or nil
        add_node(below, tvb, start, value, name .. ": ", field and { field = field[1], kind = field[2] } or {})
      end
    end
  elseif fields.field and fields.kind == node.kind and (node.kind ~= "int" or node.value >= 0 and node.value < 2 ^ 32) then
    if node.kind == "int" then
      tree:add(fields.field, range, node.value)
    elseif #node.value > 0 then
      local content = tvb(start + node.content - 1, #node.value)
      if node.kind == "str" then
        tree:add_packet_field(fields.field, content, ENC_UTF_8)
      else
        tree:add(fields.field, content)
      end
    end
  else
    tree:add(range, label .. shown(node))
  end
end

local GREETING_FIELDS = {
  agent = { F.agent, "str" },
  alg = { F.alg, "str" },
  app = { F.app, "bin" },
  exp = { F.exp, "int" },
  id = { F.id, "bin" },
  role = { F.role, "str" },
  time = { F.time, "int" },
  ver = { F.ver, "int" },
}
local VERDICT_FIELDS = {
  code = { F.verdict, "int" },
  retry = { F.verdict_retry, "int" },
  seen = { F.verdict_seen, "str" },
  text = { F.verdict_text, "str" },
}
local CLOSE_FIELDS = { code = { F.close, "int" }, text = { F.close_text, "str" } }

-- What is remembered of a connection ---------------------------------------------------------------------------

-- By number of TCP stream:
--   initiator, responder   what is remembered of each direction; by its sender's address and port in `sides`
--   suite, e               of the preface and the SYN; e as 64 hex digits
--   mux                    by `initiator` and `responder`, whether its greeting lists mux/1
-- A direction: records by their tag, so that one is the same record whenever it is looked at again; `count` of them;
-- `keys`, one for each 65536; `mux`, the walk through its yamux frames; `first`, by stream, whether DATA was seen;
-- `lost`, the packet behind which it cannot be followed.
local conversations = {}

function trishake.init()
  conversations = {}
end

local function stream_number()
  local all = { tcp_stream() }
  return #all > 0 and all[#all].value or nil
end

local function new_conversation(pinfo, initiator_sent)
  local number = stream_number()
  if not number then
    return nil
  end
  local function direction(role)
    return { role = role, records = {}, count = 0, keys = {}, mux = { at = 0, header = "", left = 0 }, first = {} }
  end
  local sender = tostring(pinfo.src) .. " " .. pinfo.src_port
  local receiver = tostring(pinfo.dst) .. " " .. pinfo.dst_port
  local initiator, responder = direction("initiator"), direction("responder")
  local conversation = { initiator = initiator, responder = responder, mux = {}, sides = {} }
  conversation.sides[sender] = initiator_sent and initiator or responder
  conversation.sides[receiver] = initiator_sent and responder or initiator
  conversations[number] = conversation
  return conversation
end

-- Records ------------------------------------------------------------------------------------------------------

local function traffic_key(conversation, direction, n)
  local keys = direction.keys
  local label = direction.role == "initiator" and "TRISHAKE_INITIATOR_TRAFFIC" or "TRISHAKE_RESPONDER_TRAFFIC"
  keys[0] = keys[0] or logged_key(label, conversation.e)
  if not keys[0] then
    return nil
  end
  for i = 1, floor(n / REKEY_INTERVAL) do
    keys[i] = keys[i] or rekeyed(keys[i - 1])
  end
  return keys[floor(n / REKEY_INTERVAL)]
end

-- Walk through the yamux frames in DATA. What is found is a list of parts, each of which begins `at` (from 0).
local function walk_mux(direction, content)
  local walk, parts, at = direction.mux, {}, 0
  while at < #content and not walk.lost do
    if walk.left > 0 then
      local length = math.min(walk.left, #content - at)
      local part = { at = at, length = length, stream = walk.stream }
      if not direction.first[walk.stream] then
        direction.first[walk.stream] = true
        local first = content:byte(at + 1)
        local opener = walk.stream % 2 == 1 and "initiator" or "responder"
        if opener ~= direction.role then
          part.answer = true
        elseif first > 0 and first < length then
          part.protocol = content:sub(at + 2, at + 1 + first)
        end
      end
      parts[#parts + 1] = part
      at, walk.left = at + length, walk.left - length
    else
      local taken = content:sub(at + 1, at + 12 - #walk.header)
      local header = walk.header .. taken
      if #header < 12 then
        parts[#parts + 1] = { at = at, length = #taken, torn = true }
        walk.header = header
      else
        local version, kind = header:byte(1, 2)
        local part = { at = at, length = #taken, header = true, torn = #taken < 12 }
        part.type, part.flags = kind, u16(header, 3)
        part.stream, part.size = big_endian(header, 5), big_endian(header, 9)
        part.bad = version ~= 0 or kind > MUX_GO_AWAY
        parts[#parts + 1] = part
        walk.lost, walk.header = part.bad, ""
        walk.stream, walk.left = part.stream, kind == MUX_DATA and part.size or 0
      end
      at = at + #taken
    end
  end
  return parts
end

local function flag_names(flags)
  local names = {}
  for i, name in ipairs(MUX_FLAGS) do
    if floor(flags / 2 ^ (i - 1)) % 2 == 1 then
      names[#names + 1] = " " .. name
    end
  end
  return table.concat(names)
end

local function add_mux_part(tree, tvb, part)
  local range = tvb(part.at, part.length)
  if part.header and not part.torn then
    local what = named(MUX_NAMES, part.type) .. flag_names(part.flags)
    local item = tree:add(range, string.format("yamux %s, stream %.0f, %.0f", what, part.stream, part.size))
    item:add(F.mux_version, tvb(part.at, 1))
    item:add(F.mux_type, tvb(part.at + 1, 1))
    item:add(F.mux_flags, tvb(part.at + 2, 2)):append_text(flag_names(part.flags))
    item:add(F.mux_stream, tvb(part.at + 4, 4))
    item:add(F.mux_length, tvb(part.at + 8, 4))
    if part.bad then
      item:add_proto_expert_info(E.malformed, "This is no yamux frame of version 0")
    end
    return what .. string.format(" #%.0f", part.stream)
  elseif part.header or part.torn then
    tree:add(range, "part of a yamux header")
    return nil
  end
  local item = tree:add(F.data, range)
  item:append_text(string.format(" (stream %.0f)", part.stream))
  if part.protocol then
    item:add_packet_field(F.mux_protocol, tvb(part.at + 1, #part.protocol), ENC_UTF_8)
    return '"' .. printable(part.protocol) .. '"'
  elseif part.answer then
    item:add(F.mux_answer, tvb(part.at, 1))
    return ANSWERS[tvb(part.at, 1):uint()]
  end
  return nil
end

local function add_map(tree, tvb, content, fields, names)
  local map = unpacked(content)
  if not map or map.kind ~= "map" then
    tree:add_proto_expert_info(E.malformed, "This is no msgpack map")
    return nil
  end
  add_node(tree, tvb, 0, map, "", fields)
  local code, text = value_of(map, "code", "int"), value_of(map, "text", "str")
  local name = code and code.value >= 0 and named(names, code.value) or "without a code"
  return name .. (text and ' "' .. printable(text.value) .. '"' or ""), code and code.value
end

-- What a record says, for the column; nil where it does not decrypt.
local function add_plaintext(tree, conversation, direction, entry, plaintext)
  local unpadded = plaintext:match("^(.*[^%z])%z*$")
  local kind = unpadded and unpadded:byte(-1)
  if not RECORD_NAMES[kind or 0] then
    tree:add_proto_expert_info(
      E.undecrypted,
      "No record comes out: packets are missing before it, or this is the key of another connection"
    )
    return nil
  end
  local in_turn = direction.mux.at == entry.n -- no record before it was left out: the walk can go on
  if in_turn then
    direction.mux.at = entry.n + 1
  end
  local tvb = private_tvb(plaintext, "Decrypted record")
  local content = unpadded:sub(1, -2)
  tree:add(F.record_type, tvb(#content, 1))
  local said = RECORD_NAMES[kind]
  if kind == VERDICT or kind == CLOSE then
    local fields = kind == VERDICT and VERDICT_FIELDS or CLOSE_FIELDS
    local what, code = add_map(tree, tvb, content, fields, kind == VERDICT and VERDICT_NAMES or CLOSE_NAMES)
    if code and code ~= 0 then
      tree:add_proto_expert_info(E.refused, said .. " " .. what)
    end
    said = said .. (what and " " .. what or "")
  elseif kind == PING and #content == 9 then
    tree:add(F.ping_answer, tvb(0, 1))
    tree:add(F.ping, tvb(1, 8))
    said = said .. (content:byte(1) == 0 and " asks" or " answers")
  elseif kind == DATA and #content > 0 then
    said = said .. " " .. #content
    if in_turn and conversation.mux.initiator and conversation.mux.responder then
      entry.mux = walk_mux(direction, content)
    end
    if entry.mux then
      local words = {}
      for _, part in ipairs(entry.mux) do
        words[#words + 1] = add_mux_part(tree, tvb, part)
      end
      if #words > 4 then
        words = { words[1], words[2], words[3], "..." }
      end
      said = said .. (#words > 0 and " (" .. table.concat(words, ", ") .. ")" or "")
    else
      tree:add(F.data, tvb(0, #content))
    end
  else
    tree:add_proto_expert_info(E.malformed, said .. " of " .. #content .. " bytes")
  end
  if #unpadded < #plaintext then
    tree:add(F.padding, tvb(#unpadded, #plaintext - #unpadded))
  end
  return said
end

local function add_record(tree, tvb, at, body, conversation, direction)
  tree:add(F.ciphertext, tvb(at, #body))
  local tag = body:sub(-TAG)
  local entry = direction.records[tag]
  if not entry then
    entry = { n = direction.count }
    direction.records[tag], direction.count = entry, direction.count + 1
  end
  tree:add(F.record_n, entry.n):set_generated()
  if not entry.plaintext then
    local key = traffic_key(conversation, direction, entry.n)
    entry.plaintext = key and decrypt(key, entry.n, body)
  end
  return entry.plaintext and add_plaintext(tree, conversation, direction, entry, entry.plaintext)
    or "RECORD " .. #body
end

-- Greetings ----------------------------------------------------------------------------------------------------

local function add_static(tree, tvb, at, ciphertext, key, n)
  local item = tree:add(F.s, tvb(at, #ciphertext))
  if key then
    item:add(F.static_key, private_tvb(decrypt(key, n, ciphertext), "Decrypted static key")(0, 32))
  end
end

-- Section 6: [record, signature, padding]. What it says, for the column.
local function add_greeting(tree, tvb, at, ciphertext, key, conversation, direction)
  local item = tree:add(F.greeting, tvb(at, #ciphertext))
  if not key then
    return nil
  end
  local plaintext = decrypt(key, 0, ciphertext)
  local outer = unpacked(plaintext)
  local parts = outer and outer.kind == "array" and #outer.items == 3 and outer.items
  if not parts or parts[1].kind ~= "bin" or parts[2].kind ~= "bin" or parts[3].kind ~= "bin" then
    item:add_proto_expert_info(E.undecrypted, "No greeting comes out: it was changed, or this is another key")
    return nil
  end
  local clear = private_tvb(plaintext, "Decrypted greeting")
  local record = unpacked(parts[1].value)
  if not record or record.kind ~= "map" then
    item:add_proto_expert_info(E.malformed, "The record is no msgpack map")
    return nil
  end
  local start = parts[1].content - 1
  add_node(item, clear, start, record, "record: ", GREETING_FIELDS)
  if #parts[2].value > 0 then
    item:add(F.signature, clear(parts[2].content - 1, #parts[2].value))
  end
  if #parts[3].value > 0 then
    item:add(F.padding, clear(parts[3].content - 1, #parts[3].value))
  end
  local caps = value_of(record, "caps", "array")
  for _, cap in ipairs(caps and caps.items or {}) do
    conversation.mux[direction.role] = conversation.mux[direction.role] or cap.value == "mux/1"
  end
  local id, agent = value_of(record, "id", "bin"), value_of(record, "agent", "str")
  local said = agent and ' "' .. printable(agent.value) .. '"' or ""
  if id and #id.value == 32 then
    local text = peer_id(id.value)
    tree:add(F.peer, clear(start + id.content - 1, 32), text):set_generated()
    said = " of " .. text:sub(1, 8) .. "..." .. said
  end
  return said
end

local function add_syn(tree, tvb, at, body, conversation, direction)
  local e, suite = hex(body:sub(1, 32)), conversation.suite
  if direction.role == "initiator" then
    conversation.e = conversation.e or e
  end
  tree:add(F.e, tvb(at, 32))
  if suite.e1 > 0 then
    tree:add(F.e1, tvb(at + 32, suite.e1))
  end
  if suite.syn_tag > 0 then
    tree:add(F.syn_tag, tvb(at + 32 + suite.e1, suite.syn_tag))
  end
  return "SYN (" .. suite.name .. ")"
end

local function add_syn_ack(tree, tvb, at, body, conversation, direction)
  local suite, e = conversation.suite, conversation.e
  tree:add(F.e, tvb(at, 32))
  if suite.ekem1 > 0 then
    tree:add(F.ekem1, tvb(at + 32, suite.ekem1))
  end
  local s = 32 + suite.ekem1
  add_static(tree, tvb, at + s, body:sub(s + 1, s + 48), logged_key("TRISHAKE_SYN_ACK_STATIC", e), 0)
  local key = logged_key("TRISHAKE_SYN_ACK_GREETING", e)
  local said = add_greeting(tree, tvb, at + s + 48, body:sub(s + 49), key, conversation, direction)
  return "SYN-ACK" .. (said or "")
end

local function add_ack(tree, tvb, at, body, conversation, direction)
  local e = conversation.e
  -- No key is mixed between the greeting in SYN-ACK and this: the same one, and the next nonce.
  add_static(tree, tvb, at, body:sub(1, 48), logged_key("TRISHAKE_SYN_ACK_GREETING", e), 1)
  local key = logged_key("TRISHAKE_ACK_GREETING", e)
  local said = add_greeting(tree, tvb, at + 48, body:sub(49), key, conversation, direction)
  return "ACK" .. (said or "")
end

local function add_alert(tree, tvb, at, body, _, direction)
  local code, detail = body:byte(1), body:sub(2)
  local item = tree:add(F.alert, tvb(at, 1))
  local said = "ALERT " .. named(ALERT_NAMES, code)
  if code == BUSY and #detail == 2 then
    tree:add(F.alert_retry, tvb(at + 1, 2))
    said = said .. ", retry after " .. u16(detail, 1) .. " s"
  elseif code == UNSUPPORTED_VERSION and #detail == 2 then
    tree:add(F.alert_lowest, tvb(at + 1, 1))
    tree:add(F.alert_highest, tvb(at + 2, 1))
    said = said .. ", speaks " .. detail:byte(1) .. " to " .. detail:byte(2)
  elseif code == UNSUPPORTED_SUITE and #detail > 0 and #detail % 2 == 0 then
    local suites = {}
    for i = 1, #detail, 2 do
      tree:add(F.alert_suite, tvb(at + i, 2))
      suites[#suites + 1] = string.format("0x%04x", u16(detail, i))
    end
    said = said .. ", enabled " .. table.concat(suites, " ")
  elseif #detail > 0 then
    tree:add(F.alert_detail, tvb(at + 1, #detail)):add_proto_expert_info(E.unfit, "This code has no such detail")
  end
  item:add_proto_expert_info(E.refused, said)
  if (code == ABORTED) ~= (direction.role == "initiator") then
    item:add_proto_expert_info(E.unfit, "The " .. direction.role .. " sends no such ALERT")
  end
  return said
end

-- Frames -------------------------------------------------------------------------------------------------------

local READERS = { [SYN] = add_syn, [SYN_ACK] = add_syn_ack, [ACK] = add_ack, [RECORD] = add_record, [ALERT] = add_alert }
local SENDERS = { [SYN] = "initiator", [SYN_ACK] = "responder", [ACK] = "initiator" }

-- The least and the most bytes of a body.
local function bounds(type_, suite)
  if type_ == RECORD then
    return TAG, 65535
  elseif type_ == ALERT then
    return 1, 65
  elseif type_ == SYN then
    local length = 32 + suite.e1 + suite.syn_tag
    return length, length
  end
  local overhead = type_ == SYN_ACK and 32 + suite.ekem1 + 48 + TAG or 48 + TAG
  return overhead + MIN_GREETING, overhead + MAX_GREETING
end

-- What begins at the front of s: its length in bytes; or nil and how many more are needed, nil if that is not known
-- yet; or false and what is wrong with it.
local function extent(s, conversation)
  local first = s:byte(1)
  if first == MAGIC:byte(1) then
    if MAGIC:sub(1, #s) ~= s:sub(1, 4) then
      return false, "This is no preface: its magic is another"
    elseif #s < 5 then
      return nil
    elseif s:byte(5) ~= 1 then
      return false, "A preface of version " .. s:byte(5)
    elseif #s < 11 then
      return nil
    end
    local offers, ext = s:byte(9), u16(s, 10)
    if s:byte(6) < 1 then
      return false, "A highest version below the version"
    elseif offers < 1 or offers > 8 then
      return false, offers .. " offers, 1 to 8 are allowed"
    elseif ext > 256 then
      return false, "An extension of " .. ext .. " bytes, 256 are allowed"
    end
    local length = 19 + 2 * offers + ext
    if #s < length then
      return nil, length - #s
    end
    return length
  end
  local name = FRAME_NAMES[first]
  if not name then
    return false, string.format("A frame of unknown type 0x%02x", first)
  elseif SENDERS[first] and not conversation.suite then
    return false, name .. " of a suite that is not known"
  elseif #s < 3 then
    return nil
  end
  local length = u16(s, 2)
  local least, most = bounds(first, conversation.suite)
  if length < least or length > most then
    local allowed = least == most and least or least .. " to " .. most
    return false, name .. " of " .. length .. " bytes, allowed are " .. allowed
  elseif #s < 3 + length then
    return nil, 3 + length - #s
  end
  return 3 + length
end

-- As much of a preface as is there.
local function add_preface(tree, tvb, at, s)
  local function add(field, offset, size)
    return offset + size <= #s and tree:add(field, tvb(at + offset, size)) or nil
  end
  add(F.magic, 0, 4)
  add(F.version, 4, 1)
  add(F.version_max, 5, 1)
  if #s < 19 or s:byte(5) ~= 1 then
    return
  end
  add(F.suite, 6, 2)
  add(F.n_offers, 8, 1)
  add(F.ext_len, 9, 2)
  local tag = add(F.net_tag, 11, 8)
  local network = s:sub(12, 19)
  if network == ("\0"):rep(8) then
    tag:append_text(" (a private network)")
  elseif network == sha256("trishake/1 network\0trishake"):sub(1, 8) then
    tag:append_text(" (the network trishake)")
  end
  local offers = s:byte(9)
  for i = 0, offers - 1 do
    add(F.offer, 19 + 2 * i, 2)
  end
  if u16(s, 10) > 0 then
    add(F.ext, 19 + 2 * offers, u16(s, 10))
  end
end

local function read_preface(tree, tvb, at, s, conversation, direction)
  local item = tree:add(tvb(at, #s), "Preface")
  add_preface(item, tvb, at, s)
  local id, offered = u16(s, 7), false
  for i = 0, s:byte(9) - 1 do
    offered = offered or u16(s, 20 + 2 * i) == id
  end
  if not offered then
    item:add_proto_expert_info(E.malformed, "The suite is not among the offers")
  end
  if direction.role == "responder" then
    item:add_proto_expert_info(E.unfit, "The responder sends no preface")
  else
    conversation.suite = conversation.suite or SUITES[id]
  end
  return "preface v" .. s:byte(5)
end

local function read_frame(tree, tvb, at, s, conversation, direction)
  local type_ = s:byte(1)
  local item = tree:add(tvb(at, #s), FRAME_NAMES[type_])
  item:add(F.type, tvb(at, 1))
  item:add(F.length, tvb(at + 1, 2))
  if SENDERS[type_] and SENDERS[type_] ~= direction.role then
    item:add_proto_expert_info(E.unfit, "The " .. direction.role .. " sends no " .. FRAME_NAMES[type_])
  end
  local said = READERS[type_](item, tvb, at + 3, s:sub(4), conversation, direction)
  item:set_text(said)
  return said
end

-- The connection ----------------------------------------------------------------------------------------------

local BUSY_FRAME = string.char(ALERT, 0, 3, BUSY)

-- Whether a connection may begin so. A responder that is busy may say so before it has read anything (section 7).
local function begins(tvb)
  local length = tvb:len()
  local s = tvb:raw(0, math.min(length, 6))
  if #s < 4 then
    local seq = tcp_seq()
    return #s > 0 and MAGIC:sub(1, #s) == s and seq ~= nil and seq.value <= 4
  elseif length == 6 and s:sub(1, 4) == BUSY_FRAME then
    return true
  end
  -- The sign may stand in front of any text: a version is a control character, which no text has there.
  local version = s:byte(5) or 1
  return s:sub(1, 4) == MAGIC and version >= 1 and version < 32
end

local function dissect(tvb, pinfo, tree)
  local length = tvb:len()
  local number = stream_number()
  local conversation = number and conversations[number]
  if not conversation then
    if length == 0 or not begins(tvb) then
      return 0
    end
    conversation = new_conversation(pinfo, tvb:raw(0, 1) == MAGIC:sub(1, 1))
  end
  local direction = conversation and conversation.sides[tostring(pinfo.src) .. " " .. pinfo.src_port]
  if not direction then
    return 0
  end

  local all = tvb:raw(0, length)
  local root, at = nil, 0
  local function add_root()
    root = root or tree:add(trishake, tvb(0, length))
    return root
  end

  if direction.lost and pinfo.number > direction.lost then
    add_root():add_proto_expert_info(E.incomplete, "Not followed any more, since packet " .. direction.lost)
    say(pinfo, length .. " bytes, not followed")
    at = length
  end

  while at < length do
    local s = all:sub(at + 1)
    local size, rest = extent(s, conversation)
    if size then
      s = s:sub(1, size)
      local read = s:byte(1) == MAGIC:byte(1) and read_preface or read_frame
      say(pinfo, read(add_root(), tvb, at, s, conversation, direction))
      at = at + size
    elseif size == nil and pinfo.can_desegment > 0 then
      pinfo.desegment_offset = at
      pinfo.desegment_len = rest or DESEGMENT_ONE_MORE_SEGMENT
      break
    else
      local item = add_root():add(tvb(at, length - at), "Not read: " .. length - at .. " bytes")
      if s:sub(1, 4) == MAGIC then
        add_preface(item, tvb, at, s)
      end
      if size == nil then
        item:add_proto_expert_info(E.incomplete, "The rest of it was not captured, or TCP does not reassemble")
        say(pinfo, "incomplete")
      else
        item:add_proto_expert_info(E.malformed, rest)
        say(pinfo, "malformed: " .. rest)
      end
      direction.lost = math.min(direction.lost or pinfo.number, pinfo.number)
      at = length
    end
  end

  if root then
    root:set_len(at)
    root:add(F.initiator, direction.role == "initiator"):set_generated()
    if conversation.e then
      root:add(F.greeting_id, conversation.e:sub(1, 16)):set_generated()
    end
  end
  return length
end

trishake.dissector = dissect

-- It calls `dissect` itself, not `trishake.dissector`: behind that, TCP is too far away to be asked for more bytes.
trishake:register_heuristic("tcp", function(tvb, pinfo, tree)
  if tvb:len() == 0 or not begins(tvb) then
    return false
  end
  if tvb:len() >= 4 then
    pinfo.conversation = trishake
  end
  return dissect(tvb, pinfo, tree) > 0
end)

DissectorTable.get("tcp.port"):add_for_decode_as(trishake)
