--- Colours, type sizes and margins that all figures share.
return {
  paper = 0xffffff, ink = 0x1d1f21, soft = 0x5b6066, faint = 0xdcdcd8,
  hidden = 0xa6acb2,   -- patches that the encoder does not see; for light and dark ground
  unused = 0xa6acb2,   -- patches without a value in a heat map
  mark = 0xd00000,     -- the frame of a marked patch
  title = 17, text = 13,   -- type, in pixels
  margin = 16, gap = 12,   -- around a figure, and between its parts, in pixels
  --- Distinct for colour-blind readers too (Okabe and Ito, 2008), in order of use.
  palette = { 0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x7a5195, 0x222222 },
  --- Dark violet to yellow, rising in lightness: it is readable in grey too.
  ramp = { 0x2b1055, 0x3f3688, 0x35618d, 0x24868e, 0x2fb47c, 0x94d741, 0xfde725 },
}
