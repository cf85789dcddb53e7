# cmake -DOUT=file.cc -DHEADER=header.h -DTEXTS="name=path;..." -P EmbedText.cmake
# Writes a source file that defines each text file as a std::string_view in namespace reprise. The
# bytes are written one by one: no limit on length, no delimiter that a text could hold.
set(source "// Made by cmake/EmbedText.cmake; do not edit.\n#include \"${HEADER}\"\n\nnamespace reprise {\n")
foreach(pair IN LISTS TEXTS)
  string(REGEX MATCH "^([^=]+)=(.+)$" _ "${pair}")
  set(name "${CMAKE_MATCH_1}")
  file(READ "${CMAKE_MATCH_2}" hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
  string(APPEND source
    "static constexpr char ${name}Bytes[] = {\n${bytes}};\n"
    "const std::string_view ${name}(${name}Bytes, ${size});\n")
endforeach()
string(APPEND source "}  // namespace reprise\n")
file(WRITE "${OUT}" "${source}")
