# What dsl/, the compiler and the tests stand on: arena, diagnostics, expressions, specs, SHA-256. No Lua, no MLIR.
add_library(tdagen_base STATIC
	${CMAKE_CURRENT_LIST_DIR}/arena.c
	${CMAKE_CURRENT_LIST_DIR}/diag.c
	${CMAKE_CURRENT_LIST_DIR}/expr.c
	${CMAKE_CURRENT_LIST_DIR}/expr_fold.c
	${CMAKE_CURRENT_LIST_DIR}/expr_derive.c
	${CMAKE_CURRENT_LIST_DIR}/expr_interval.c
	${CMAKE_CURRENT_LIST_DIR}/expr_print.c
	${CMAKE_CURRENT_LIST_DIR}/expr_prove.c
	${CMAKE_CURRENT_LIST_DIR}/sha256.c
	${CMAKE_CURRENT_LIST_DIR}/spec.c
	${CMAKE_CURRENT_LIST_DIR}/suggest.c)
target_include_directories(tdagen_base PUBLIC ${CMAKE_CURRENT_LIST_DIR})
target_compile_definitions(tdagen_base PRIVATE _GNU_SOURCE)
target_link_libraries(tdagen_base PUBLIC m)
