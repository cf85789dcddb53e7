# Finds libtorch inside a Python environment (a PyTorch wheel holds its libraries and headers) and
# makes the target reprise::libtorch. CMake's own find_package(Torch) is not used: it looks for CUDA
# toolkits and changes global flags, and all that is needed here is three libraries and a folder.
#
# Looked at in this order: REPRISE_TORCH_PYTHON, <source>/.venv, $VIRTUAL_ENV, python3 in the PATH.
# Sets RepriseTorch_FOUND and REPRISE_TORCH_VERSION.
set(REPRISE_TORCH_PYTHON "" CACHE FILEPATH
  "Python interpreter whose PyTorch is used; empty: .venv, then $VIRTUAL_ENV, then python3")

set(RepriseTorch_FOUND FALSE)
if(REPRISE_TORCH_PYTHON)
  set(_pythons ${REPRISE_TORCH_PYTHON})
else()
  set(_pythons ${PROJECT_SOURCE_DIR}/.venv/bin/python)
  if(DEFINED ENV{VIRTUAL_ENV})
    list(APPEND _pythons $ENV{VIRTUAL_ENV}/bin/python)
  endif()
  find_program(_reprise_python3 python3)
  mark_as_advanced(_reprise_python3)
  if(_reprise_python3)
    list(APPEND _pythons ${_reprise_python3})
  endif()
endif()

foreach(_python ${_pythons})
  if(NOT EXISTS ${_python})
    continue()
  endif()
  # Importing torch takes seconds, so the answer is kept until another interpreter is asked.
  if(NOT "${REPRISE_TORCH_ASKED}" STREQUAL "${_python}" OR NOT EXISTS "${REPRISE_TORCH_ROOT}")
    execute_process(
      COMMAND ${_python} -c
        "import os, torch; print(os.path.dirname(torch.__file__), torch.__version__, int(torch._C._GLIBCXX_USE_CXX11_ABI), sep=';')"
      OUTPUT_VARIABLE _answer OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _result)
    if(NOT _result EQUAL 0)
      continue()
    endif()
    list(GET _answer 0 _root)
    list(GET _answer 1 _version)
    list(GET _answer 2 _abi)
    set(REPRISE_TORCH_ASKED ${_python} CACHE INTERNAL "")
    set(REPRISE_TORCH_ROOT ${_root} CACHE INTERNAL "")
    set(REPRISE_TORCH_VERSION ${_version} CACHE INTERNAL "")
    set(REPRISE_TORCH_ABI ${_abi} CACHE INTERNAL "")
  endif()
  set(RepriseTorch_FOUND TRUE)
  break()
endforeach()

if(RepriseTorch_FOUND)
  add_library(reprise::libtorch INTERFACE IMPORTED)
  # Searched last: the wheel brings headers of other libraries too (another version of fmt).
  target_compile_options(reprise::libtorch INTERFACE
    "SHELL:-idirafter ${REPRISE_TORCH_ROOT}/include"
    "SHELL:-idirafter ${REPRISE_TORCH_ROOT}/include/torch/csrc/api/include")
  target_compile_definitions(reprise::libtorch INTERFACE
    _GLIBCXX_USE_CXX11_ABI=${REPRISE_TORCH_ABI})
  # libtorch.so is empty but pulls in the CUDA part of wheels that have one: it registers itself
  # when loaded, so no symbol of it is ever asked for and the linker must be told to keep it.
  target_link_libraries(reprise::libtorch INTERFACE
    -Wl,--push-state,--no-as-needed ${REPRISE_TORCH_ROOT}/lib/libtorch.so -Wl,--pop-state
    ${REPRISE_TORCH_ROOT}/lib/libtorch_cpu.so ${REPRISE_TORCH_ROOT}/lib/libc10.so)
  # at::parallel_for is a template that is compiled here and runs on OpenMP threads: those of the
  # wheel's own runtime, or there would be two pools of threads.
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  file(GLOB _openmp ${REPRISE_TORCH_ROOT}/lib/libgomp*.so*)
  target_compile_options(reprise::libtorch INTERFACE ${OpenMP_CXX_FLAGS})
  target_link_libraries(reprise::libtorch INTERFACE
    $<IF:$<BOOL:${_openmp}>,${_openmp},OpenMP::OpenMP_CXX>)
  message(STATUS "PyTorch ${REPRISE_TORCH_VERSION} in ${REPRISE_TORCH_ROOT}")
endif()
