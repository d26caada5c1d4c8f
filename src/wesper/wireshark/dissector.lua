-- Reads `layout`, the table above this line in the written file, and makes a dissector of it.

if pcall(Dissector.get, layout.name) and Dissector.get(layout.name) then return end

local proto = Proto(layout.name, layout.title)
local prefs = proto.prefs
local expert_cut =
  ProtoExpert.new(layout.name .. ".truncated", "Fewer octets than the header needs", expert.group.MALFORMED, expert.severity.ERROR)
proto.experts = { expert_cut }

local all = {}
local function known(field)
  all[#all + 1] = field
  return field
end

-- Preferences: numbers that differ from place to place, and what only the SA knows.
if layout.udp_port then prefs.port = Pref.uint("UDP port", layout.udp_port, "0: not looked for in UDP") end
if layout.ip_protocol then prefs.ip_protocol = Pref.uint("IP protocol", layout.ip_protocol, "its number in IP headers") end
if not layout.icv then prefs.icv = Pref.uint("ICV", 16, "octets; only the SA knows how many") end

local function declare(header)
  for _, field in ipairs(header) do
    if field.bits == 0 or field.raw then
      field.proto = known(ProtoField.bytes(field.filter, field.label, base.NONE, field.about))
    else
      local kind = ({ "uint8", "uint16", "uint24", "uint32" })[field.size] or "uint64"
      local form = field.hex and base.HEX or base.DEC
      field.proto = known(ProtoField[kind](field.filter, field.label, form, field.names, field.mask, field.about))
    end
    if field.negotiated then
      prefs["with_" .. field.name] = Pref.bool(field.label, true, "whether both ends agreed on it; only the SA knows")
    elseif field.bits == 0 and not field.length then
      prefs[field.name .. "_octets"] = Pref.uint(field.label, 8, "octets; only the SA knows how many")
    end
  end
end
for _, header in ipairs(layout.headers) do declare(header) end
for _, header in pairs(layout.options or {}) do declare(header) end
if layout.payload_header then declare(layout.payload_header) end

local option_type, option_length, option_data
if layout.options then
  option_type = known(ProtoField.uint8(layout.name .. ".option.type", "Option", base.DEC, layout.option_names))
  option_length = known(ProtoField.uint8(layout.name .. ".option.length", "Option length", base.DEC))
  option_data = known(ProtoField.bytes(layout.name .. ".option.data", "Option data"))
end
local clear = known(ProtoField.bytes(layout.name .. ".clear", "Payload in the clear"))
local encrypted = known(ProtoField.bytes(layout.name .. ".encrypted", "Encrypted"))
local icv = known(ProtoField.bytes(layout.name .. ".icv", "Integrity check value"))
local inner = {}
for name, kind in pairs({ src4 = "ipv4", dst4 = "ipv4", src6 = "ipv6", dst6 = "ipv6", proto = "uint8", srcport = "uint16", dstport = "uint16" }) do
  inner[name] = known(ProtoField[kind](layout.name .. ".inner." .. name:gsub("[46]$", ""), "Inner " .. name:gsub("[46]$", "")))
end
proto.fields = all

-- Shows the fixed fields of a header at `at`, keeps their values in `h`.
local function fixed(tvb, tree, header, at, stop, h)
  for _, field in ipairs(header) do
    if field.bits > 0 and at + field.at + field.size <= stop then
      if field.bits <= 32 and not field.raw then
        h[field.name] = tvb(at + field.at, field.size):bitfield(field.first, field.bits)
      end
      tree:add(field.proto, tvb(at + field.at, field.size))
    end
  end
end

local function options(tvb, tree, at, stop, h)
  while at < stop do
    local kind = tvb(at, 1):uint()
    local one = tree:add(option_type, tvb(at, 1))
    if kind == 0 then
      at = at + 1
    else
      if at + 2 > stop or at + 2 + tvb(at + 1, 1):uint() > stop then
        tree:add_proto_expert_info(expert_cut)
        return
      end
      local size = 2 + tvb(at + 1, 1):uint()
      one:set_len(size)
      local header = layout.options[kind]
      if header then
        fixed(tvb, one, header, at, at + size, h)
        local last = header[#header]
        if last.bits == 0 and size > last.at then one:add(last.proto, tvb(at + last.at, size - last.at)) end
      else
        one:add(option_length, tvb(at + 1, 1))
        if size > 2 then one:add(option_data, tvb(at + 2, size - 2)) end
      end
      at = at + size
    end
  end
end

-- What can be read of a packet whose end is encrypted: built-in dissectors would call it malformed.
local with_ports = { [6] = true, [17] = true, [33] = true, [132] = true, [136] = true }
local function inner_headers(octets, tree, next_header)
  local at, left = 0, octets:len()
  if next_header == 4 and left >= 20 then
    tree:add(inner.proto, octets(9, 1))
    tree:add(inner.src4, octets(12, 4))
    tree:add(inner.dst4, octets(16, 4))
    at, next_header = 4 * octets(0, 1):bitfield(4, 4), octets(9, 1):uint()
  elseif next_header == 41 and left >= 40 then
    tree:add(inner.proto, octets(6, 1))
    tree:add(inner.src6, octets(8, 16))
    tree:add(inner.dst6, octets(24, 16))
    at, next_header = 40, octets(6, 1):uint()
  end
  if with_ports[next_header] and left >= at + 4 then
    tree:add(inner.srcport, octets(at, 2))
    tree:add(inner.dstport, octets(at + 2, 2))
  end
end

local function payload(tvb, pinfo, root, tree, at, h)
  local stop = tvb:len() - (layout.icv or prefs.icv)
  if stop < at then return end
  local boundary = at
  if layout.clear then
    -- A field that an option would have brought is nil: then nothing is said to be in the clear.
    local said, octets = pcall(layout.clear, h)
    if said then boundary = math.max(at, math.min(octets, stop)) end
  end
  local front = math.min(at + (layout.payload_header and layout.payload_header.size or 0), boundary)
  local next_header
  if boundary > at then
    local shown = tree:add(clear, tvb(at, boundary - at))
    if layout.payload_header then fixed(tvb, shown, layout.payload_header, at, boundary, h) end
    next_header = h[layout.next_header or ""]
    if front < boundary and boundary < stop then inner_headers(tvb(front, boundary - front), shown, next_header) end
  end
  if boundary < stop then tree:add(encrypted, tvb(boundary, stop - boundary)) end
  if stop < tvb:len() then tree:add(icv, tvb(stop)) end
  if front == stop or boundary < stop or not next_header then return end
  local whole = tvb(front, stop - front):tvb()
  local built_in = ({ [4] = "ip", [41] = "ipv6" })[next_header]
  pcall(function() -- a packet cut short is marked so by the dissector that misses something
    if built_in then
      Dissector.get(built_in):call(whole, pinfo, root)
    else
      DissectorTable.get("ip.proto"):try(next_header, whole, pinfo, root)
    end
  end)
end

function proto.dissector(tvb, pinfo, root)
  pinfo.cols.protocol = layout.name:upper()
  local tree = root:add(proto, tvb())
  local h, at = {}, 0
  for _, header in ipairs(layout.headers) do
    if tvb:len() < at + header.size then
      tree:add_proto_expert_info(expert_cut)
      return tvb:len()
    end
    fixed(tvb, tree, header, at, tvb:len(), h)
    at = at + header.size
    for _, field in ipairs(header) do
      if field.bits == 0 then
        local size
        if field.negotiated then
          size = prefs["with_" .. field.name] and field.negotiated or 0
        else
          size = field.length and field.length(h) or prefs[field.name .. "_octets"]
        end
        if size < 0 or tvb:len() < at + size then
          tree:add_proto_expert_info(expert_cut)
          return tvb:len()
        end
        if size > 0 then
          local shown = tree:add(field.proto, tvb(at, size))
          if field.options then options(tvb, shown, at, at + size, h) end
        end
        at = at + size
      end
    end
  end
  tree:set_len(at)
  if h.spi then pinfo.cols.info = string.format("SPI 0x%08x", h.spi) end
  if h.session_id then pinfo.cols.info:append(string.format(" session %d", h.session_id)) end
  if h.sequence then pinfo.cols.info:append(string.format(" sequence %d", h.sequence)) end
  payload(tvb, pinfo, root, tree, at, h)
  return tvb:len()
end

-- Enters the dissector in a table. Where others live under the same number, what is not ours goes to them.
local function attach(name, number, neighbour, marker)
  local numbers = DissectorTable.get(name)
  if marker == "" and not layout.tell then
    numbers:add(number, proto)
    return
  end
  neighbour = numbers:get_dissector(number) or neighbour
  local skip = #marker / 2
  local place = name:gsub("%.", "_")
  local door = Proto(layout.name .. "_" .. place, layout.title .. " by " .. name)
  function door.dissector(tvb, pinfo, root)
    local ours = tvb:len() > skip and (skip == 0 or tvb(0, skip):bytes():tohex():lower() == marker)
    if ours and layout.tell then
      local tell = layout.tell
      ours = tvb:len() > skip + tell.at and tvb(skip + tell.at, 1):bitfield(tell.first, tell.bits) == tell.value
    end
    if ours then return proto.dissector(tvb(skip):tvb(), pinfo, root) end
    if not neighbour then return 0 end
    local _, taken = pcall(neighbour.call, neighbour, tvb, pinfo, root)
    return type(taken) == "number" and taken or tvb:len()
  end
  numbers:add(number, door)
end
if layout.ip_protocol then attach("ip.proto", prefs.ip_protocol, nil, "") end
if layout.udp_port then
  attach("udp.port", prefs.port, layout.neighbour and Dissector.get(layout.neighbour), layout.marker)
end
