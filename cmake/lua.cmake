# The program build/ijepa: core, host and every lua/ijepa/**/*.lua as bytecode, which plain require finds because LuaJIT
# looks for the symbol luaJIT_BC_<module> in the program. C arrays, not objects: luajit's objects ask for an executable stack.
pkg_check_modules(EDIT REQUIRED IMPORTED_TARGET libedit)
file(GLOB_RECURSE LUA_FILES CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} lua/ijepa/*.lua)
set(LUA_MADE ${CMAKE_BINARY_DIR}/lua/ijepa)
set(LUA_ARRAYS)
file(MAKE_DIRECTORY ${LUA_MADE})

# folder/file, relative: this becomes the name in messages, so no machine's paths get into the program
function(lua_array folder file)
  string(REGEX REPLACE "^lua/|/init\\.lua$|\\.lua$" "" module ${file})
  string(REPLACE "/" "." module ${module})
  set(out ${CMAKE_BINARY_DIR}/lua/${module}.c)
  add_custom_command(OUTPUT ${out} DEPENDS ${folder}/${file} WORKING_DIRECTORY ${folder}
    COMMAND ${LUAJIT_PROGRAM} -bg -n ${module} -t c ${file} ${out} COMMENT "Lua ${module}" VERBATIM)
  set(LUA_ARRAYS ${LUA_ARRAYS} ${out} PARENT_SCOPE)
endfunction()
foreach(file ${LUA_FILES})
  lua_array(${CMAKE_SOURCE_DIR} ${file})
endforeach()

# ijepa._cdef: the declarations in core/ijepa.h
add_custom_command(OUTPUT ${LUA_MADE}/_cdef.lua DEPENDS core/ijepa.h cmake/cdef.lua
  COMMAND ${LUAJIT_PROGRAM} ${CMAKE_SOURCE_DIR}/cmake/cdef.lua ${CMAKE_SOURCE_DIR}/core/ijepa.h ${LUA_MADE}/_cdef.lua
  COMMENT "Lua declarations of ijepa.h" VERBATIM)
lua_array(${CMAKE_BINARY_DIR} lua/ijepa/_cdef.lua)

# ijepa._docs: the comments above our functions, for `ijepa help`
add_custom_command(OUTPUT ${LUA_MADE}/_docs.lua DEPENDS ${LUA_FILES} cmake/docs.lua WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
  COMMAND ${LUAJIT_PROGRAM} cmake/docs.lua ${LUA_MADE}/_docs.lua ${LUA_FILES} COMMENT "Lua documentation" VERBATIM)
lua_array(${CMAKE_BINARY_DIR} lua/ijepa/_docs.lua)

# ijepa._recipes: the text of objectives and models, which are found by name from everywhere
file(GLOB_RECURSE NAMED_RECIPES CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} recipes/objectives/*.lua
  recipes/models/*.lua)
add_custom_command(OUTPUT ${LUA_MADE}/_recipes.lua DEPENDS ${NAMED_RECIPES} cmake/recipes.lua
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
  COMMAND ${LUAJIT_PROGRAM} cmake/recipes.lua ${LUA_MADE}/_recipes.lua ${NAMED_RECIPES}
  COMMENT "Lua recipes by name" VERBATIM)
lua_array(${CMAKE_BINARY_DIR} lua/ijepa/_recipes.lua)

file(GLOB HOST_SOURCES CONFIGURE_DEPENDS core/host/*.c)
add_executable(ijepa ${HOST_SOURCES} ${LUA_ARRAYS} ${CPU_OBJECTS})
target_link_libraries(ijepa PRIVATE core PkgConfig::LUAJIT PkgConfig::EDIT)
set_target_properties(ijepa PROPERTIES ENABLE_EXPORTS ON)

install(TARGETS ijepa libijepa)
install(FILES core/ijepa.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY lua/ijepa DESTINATION ${CMAKE_INSTALL_DATADIR}/lua/5.1 FILES_MATCHING PATTERN *.lua)
install(FILES ${LUA_MADE}/_cdef.lua ${LUA_MADE}/_docs.lua ${LUA_MADE}/_recipes.lua DESTINATION ${CMAKE_INSTALL_DATADIR}/lua/5.1/ijepa)
# ijepa._library: where the library lies, seen from there, so that plain luajit finds it wherever the prefix is
file(RELATIVE_PATH LIBRARY_PLACE /prefix/${CMAKE_INSTALL_DATADIR}/lua/5.1/ijepa /prefix/${CMAKE_INSTALL_LIBDIR}/libijepa.so.0)
file(WRITE ${CMAKE_BINARY_DIR}/_library.lua "-- The library, from this folder.\nreturn \"${LIBRARY_PLACE}\"\n")
install(FILES ${CMAKE_BINARY_DIR}/_library.lua DESTINATION ${CMAKE_INSTALL_DATADIR}/lua/5.1/ijepa)
install(DIRECTORY recipes DESTINATION ${CMAKE_INSTALL_DATADIR}/ijepa FILES_MATCHING PATTERN *.lua)
file(RELATIVE_PATH PREFIX_FROM_PC /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)   # it may be moved
configure_file(cmake/ijepa.pc.in ijepa.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/ijepa.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
