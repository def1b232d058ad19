--- Settings that were renamed: old name = new name. An old name still works in a recipe, on the
-- command line and in a run's config.lua, and warns once.
return {
  ["diagnose.pictures"] = "diagnose.images",
  ["diagnose.probe_pictures"] = "diagnose.probe_images",
}
