// The parts of the trace page (trace_page.html and .css, trace_*.js), embedded when the program is
// built.
#pragma once

#include <string_view>

namespace reprise {

extern const std::string_view kTraceHtml;  // with a mark {{...}} for each of the others
extern const std::string_view kTraceStyle;
extern const std::string_view kTraceDataScript;
extern const std::string_view kTraceViewsScript;
extern const std::string_view kTracePageScript;

}  // namespace reprise
