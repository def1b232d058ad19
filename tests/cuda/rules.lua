-- What the code of a kernel must hold, for tests/cuda/sass.lua: file and kernel are patterns, of the readable name.
return {}
