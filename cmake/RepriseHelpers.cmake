# Precompiled headers: one of the standard library and fmt for all libraries, one with GoogleTest
# for all test programs. They hold no header of this tree, so that an edit compiles no more than it
# would without them. Sources still include whatever they use: REPRISE_PCH=OFF builds too.
set(REPRISE_PCH_HEADERS
  <algorithm> <array> <cmath> <cstdint> <cstring> <filesystem> <fstream> <functional> <map> <memory>
  <mutex> <numeric> <optional> <set> <span> <string> <string_view> <unordered_map> <utility> <vector>
  <fmt/format.h> <nlohmann/json_fwd.hpp>)

# A target that nothing links: its precompiled header is what the others take.
function(reprise_add_pch name kind)
  if(NOT REPRISE_PCH)
    return()
  endif()
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${name}.cc)
  if(NOT EXISTS ${source})
    file(WRITE ${source} "int main() {}  // the smallest program\n")
  endif()
  if(kind STREQUAL EXECUTABLE)
    add_executable(${name} EXCLUDE_FROM_ALL ${source})
  else()
    add_library(${name} ${kind} EXCLUDE_FROM_ALL ${source})
  endif()
  target_link_libraries(${name} PRIVATE fmt::fmt nlohmann_json::nlohmann_json)
  target_precompile_headers(${name} PRIVATE ${REPRISE_PCH_HEADERS} ${ARGN})
endfunction()

function(reprise_use_pch target pch)
  if(NOT REPRISE_PCH)
    return()
  endif()
  target_precompile_headers(${target} REUSE_FROM ${pch})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # as ccache wants it
    target_compile_options(${target} PRIVATE -fpch-preprocess)
  endif()
endfunction()

# -O2 instead of a release's -O3: for what isn't numbers in a loop. Results don't depend on it:
# neither changes the order of floating-point operations.
function(reprise_moderate target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O2>)
endfunction()

# reprise_library(NAME DEPS ... [FLAT] [FAST] [EXCLUDE regex]): static library from all .cc files of the current
# folder and, but for FLAT, of the folders below it; also as reprise::<name without reprise_>.
# Include paths start at src/, so includes read "formats/gguf.h". FAST: with loops over numbers that
# -O3 is worth compiling for.
function(reprise_library name)
  cmake_parse_arguments(ARG "FLAT;FAST" "EXCLUDE" "DEPS;PRIVATE_DEPS;SOURCES" ${ARGN})
  string(REGEX REPLACE "^reprise_" "reprise::" alias ${name})
  set(glob GLOB_RECURSE)
  if(ARG_FLAT)
    set(glob GLOB)
  endif()
  file(${glob} sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  if(ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${ARG_EXCLUDE}")
  endif()
  list(APPEND sources ${ARG_SOURCES})
  if(NOT sources)
    add_library(${name} INTERFACE)  # headers only, or not written yet
    add_library(${alias} ALIAS ${name})
    target_include_directories(${name} INTERFACE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
    target_compile_features(${name} INTERFACE cxx_std_20)
    return()
  endif()
  add_library(${name} STATIC ${sources})
  add_library(${alias} ALIAS ${name})
  target_compile_features(${name} PUBLIC cxx_std_20)
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  reprise_use_pch(${name} reprise_pch)
  if(NOT ARG_FAST)
    reprise_moderate(${name})
  endif()
endfunction()

# reprise_test(NAME DEPS ... LABELS ...): one test program from all *_test.cc files of the current
# folder; every TEST becomes a ctest entry of its own.
function(reprise_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "DEPS;LABELS;SOURCES" ${ARGN})
  if(NOT ARG_SOURCES)
    file(GLOB ARG_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  endif()
  if(NOT ARG_SOURCES)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} reprise_test_paths GTest::gmock GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
  # Tests are compiled more often than they run.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  reprise_use_pch(${name} reprise_test_pch)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
               ENVIRONMENT "REPRISE_PLUGIN_DIR=${REPRISE_OUTPUT_DIR}")
endfunction()
