# tdagen_llvm: headers and libraries of LLVM and MLIR 22.
#
# Static (the default): every archive of MLIR's C API and of MLIR, of which the linker takes the members that are used, and
# the components of LLVM for NVPTX. Shared (TDAGEN_SHARED): libMLIR.so and libLLVM.so; MLIR's C API exists as archives only,
# and is named by file, since its CMake targets would pull in all of static MLIR.

find_program(LLVM_CONFIG NAMES llvm-config-22 llvm-config PATHS /usr/lib/llvm-22/bin)
if(NOT LLVM_CONFIG)
  message(FATAL_ERROR "LLVM 22 is not installed (no llvm-config-22). On Debian and Ubuntu: "
    "apt-get install llvm-22-dev llvm-22-tools libmlir-22-dev, from apt.llvm.org where the distribution has no LLVM 22.")
endif()

function(llvm_config output)
  execute_process(COMMAND ${LLVM_CONFIG} ${ARGN} OUTPUT_VARIABLE text OUTPUT_STRIP_TRAILING_WHITESPACE
    COMMAND_ERROR_IS_FATAL ANY)
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

llvm_config(LLVM_VERSION --version)
if(NOT LLVM_VERSION MATCHES "^22\\.")
  message(FATAL_ERROR "${LLVM_CONFIG} is of LLVM ${LLVM_VERSION}; tdagen needs LLVM and MLIR 22. "
    "Set -DLLVM_CONFIG=/path/to/llvm-config-22.")
endif()
llvm_config(LLVM_INCLUDE_DIR --includedir)
llvm_config(LLVM_LIBRARY_DIR --libdir)
llvm_config(LLVM_TOOLS_DIR --bindir)
if(NOT EXISTS ${LLVM_INCLUDE_DIR}/mlir-c/IR.h)
  message(FATAL_ERROR "MLIR 22 is not installed (no ${LLVM_INCLUDE_DIR}/mlir-c/IR.h): apt-get install libmlir-22-dev")
endif()

add_library(tdagen_llvm INTERFACE)
target_include_directories(tdagen_llvm SYSTEM INTERFACE ${LLVM_INCLUDE_DIR})

if(TDAGEN_SHARED)
  file(GLOB archives ${LLVM_LIBRARY_DIR}/libMLIRCAPI*.a)
  target_link_libraries(tdagen_llvm INTERFACE -Wl,--start-group ${archives} -Wl,--end-group
    ${LLVM_LIBRARY_DIR}/libMLIR.so ${LLVM_LIBRARY_DIR}/libLLVM.so)
else()
  file(GLOB archives ${LLVM_LIBRARY_DIR}/libMLIR*.a)
  list(FILTER archives EXCLUDE REGEX "Test|libMLIRCAPI(Register|Exec)")
  llvm_config(components --link-static --libs nvptx passes irreader linker bitreader bitwriter asmparser
    frontendopenmp frontendoffloading core support ipo target)
  separate_arguments(components)
  target_link_libraries(tdagen_llvm INTERFACE -static-libstdc++ -static-libgcc -Wl,--gc-sections
    -Wl,--start-group ${archives} -L${LLVM_LIBRARY_DIR} ${components} -Wl,--end-group
    -Wl,--as-needed -lrt -ldl -lm -lz -lzstd)
endif()

# A static link with GNU ld takes several times as long as with lld.
find_program(TDAGEN_LLD NAMES ld.lld PATHS ${LLVM_TOOLS_DIR} NO_DEFAULT_PATH)
if(NOT TDAGEN_LLD)
  find_program(TDAGEN_LLD NAMES ld.lld)
endif()
if(TDAGEN_LLD)
  get_filename_component(lld_dir ${TDAGEN_LLD} DIRECTORY)
  target_link_options(tdagen_llvm INTERFACE -B${lld_dir} -fuse-ld=lld)
endif()
