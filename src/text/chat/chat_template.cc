// Recognising a model's Jinja chat template. The text is brought into a canonical form in which
// spelling no longer matters (white space control applied, spaces inside tags dropped, one kind of
// quotes, literals joined), and then must fit one known shape: certain pieces in their order, as
// many outputs as the shape has, and no literal text but what it expects. A template that adds,
// drops or changes anything that would be written does not fit.
#include <algorithm>
#include <optional>

#include "base/error.h"
#include "text/chat/chat.h"

namespace reprise {
namespace {

constexpr size_t kMaxTemplateBytes = 1 << 20;

struct Canonical {
  std::string text;     // tags and literal text
  std::string literal;  // the text outside tags
  int outputs = 0;      // number of {{ }}
};

void strip_right(std::string& text, std::string_view characters) {
  const size_t last = text.find_last_not_of(characters);
  text.erase(last == std::string::npos ? 0 : last + 1);
}

// The inside of a tag: no spaces outside quotes, single quotes, escaped newlines made real,
// x.role -> x['role'], 'a' + 'b' -> 'ab'.
std::string canonical_tag(std::string_view inside) {
  std::string out;
  char quote = '\0';
  for (size_t i = 0; i < inside.size(); ++i) {
    const char c = inside[i];
    if (quote == '\0') {
      if (c == ' ' || c == '\t' || c == '\n' || c == '\r') continue;
      if (c == '\'' || c == '"') {
        quote = c;
        if (out.ends_with("\x01+"))
          out.resize(out.size() - 2);
        else
          out += '\x02';
      } else {
        out += c;
      }
    } else if (c == '\\' && i + 1 < inside.size()) {
      const char next = inside[++i];
      if (next == 'n')
        out += '\n';
      else if (next == '\'' || next == '"' || next == '\\')
        out += next;
      else
        out.append({c, next});
    } else if (c == quote) {
      quote = '\0';
      out += '\x01';
    } else {
      out += c;
    }
  }
  std::replace(out.begin(), out.end(), '\x01', '\'');  // closing and opening quotes were told apart
  std::replace(out.begin(), out.end(), '\x02', '\'');
  for (const std::string_view name : {"role", "content"}) {
    const std::string dotted = fmt::format(".{}", name), indexed = fmt::format("['{}']", name);
    for (size_t at = 0; (at = out.find(dotted, at)) != std::string::npos; at += indexed.size())
      out.replace(at, dotted.size(), indexed);
  }
  return out;
}

// The end of the tag that starts at `begin`, quotes respected; npos when there is none.
size_t find_tag_end(std::string_view text, size_t begin, std::string_view close) {
  char quote = '\0';
  for (size_t i = begin; i < text.size(); ++i) {
    if (quote != '\0') {
      if (text[i] == '\\')
        ++i;
      else if (text[i] == quote)
        quote = '\0';
    } else if (text[i] == '\'' || text[i] == '"') {
      quote = text[i];
    } else if (text.substr(i).starts_with(close)) {
      return i;
    }
  }
  return std::string_view::npos;
}

// nullopt: not even well-formed. White space as with Jinja's trim_blocks and lstrip_blocks, which
// is how `transformers` runs templates.
std::optional<Canonical> canonical_form(std::string_view jinja) {
  Canonical result;
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);
  std::string literal;  // since the last tag
  bool strip_next = false, trim_newline = false;
  bool indentation = true;  // nothing but blanks since the line began
  const auto flush = [&] {
    result.text += literal;
    result.literal += literal;
    literal.clear();
  };
  for (size_t i = 0; i < jinja.size();) {
    const std::string_view rest = jinja.substr(i);
    const bool is_block = rest.starts_with("{%"), is_comment = rest.starts_with("{#");
    const bool is_output = rest.starts_with("{{");
    if (!is_block && !is_comment && !is_output) {
      const char c = jinja[i++];
      const bool newline = c == '\n';
      indentation = newline || (indentation && (c == ' ' || c == '\t'));
      if (strip_next && (newline || c == ' ' || c == '\t' || c == '\r')) continue;
      if (!(trim_newline && newline)) literal += c;
      strip_next = trim_newline = false;
      continue;
    }
    if (rest.size() > 2 && rest[2] == '-') {
      strip_right(literal, " \t\r\n");
    } else if (!is_output && indentation) {
      strip_right(literal, " \t");
    }
    indentation = false;
    flush();
    const std::string_view close = is_block ? "%}" : is_comment ? "#}" : "}}";
    const size_t end = is_comment ? jinja.find(close, i + 2) : find_tag_end(jinja, i + 2, close);
    if (end == std::string_view::npos) return std::nullopt;
    std::string_view inside = jinja.substr(i + 2, end - i - 2);
    strip_next = inside.ends_with('-');
    trim_newline = !is_output;
    if (inside.starts_with('-')) inside.remove_prefix(1);
    if (inside.ends_with('-')) inside.remove_suffix(1);
    i = end + 2;
    if (is_comment) continue;
    result.outputs += is_output ? 1 : 0;
    result.text += fmt::format("{}{}{}", rest.substr(0, 2), canonical_tag(inside), close);
  }
  flush();
  return result;
}

struct Shape {
  std::string format;
  std::vector<std::string> pieces;  // in this order, not overlapping
  int outputs;
  std::string literal;
  // Statements that may stand around the pieces; others could change what the pieces write (a message
  // put in front of all, a condition around them).
  std::vector<std::string> statements = {};
  bool all_but_set = false;  // those that set nothing too
};

const std::string kLoop = "{%formessageinmessages%}";
const std::string kAsked = "{%ifadd_generation_prompt%}";
const std::string kAlternate =
    "{%if(message['role']=='user')!=(loop.index0%2==0)%}{{raise_exception(";

std::string chatml_turn() {
  return "{{'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'}}";
}
std::string chatml_asked() { return "{{'<|im_start|>assistant\n'}}{%endif%}"; }

std::string if_role(const std::string& role) { return "message['role']=='" + role + "'%}"; }

Shape chatml_with_default(const std::string& name) {
  return {name,
          {kLoop + "{%ifloop.firstandmessages[0]['role']!='system'%}{{'<|im_start|>system\n" +
               chat_format(name).default_system + "<|im_end|>\n'}}{%endif%}" + chatml_turn() +
               "{%endfor%}",
           kAsked + chatml_asked()},
          3,
          ""};
}

// The template of Qwen2.5 also lists tools; without tools it writes what these pieces say.
Shape qwen2_5() {
  return {"qwen2.5",
          {"{%iftools%}",
           "{%else%}{%ifmessages[0]['role']=='system'%}"
           "{{'<|im_start|>system\n'+messages[0]['content']+'<|im_end|>\n'}}{%else%}"
           "{{'<|im_start|>system\n" +
               chat_format("qwen2.5").default_system + "<|im_end|>\n'}}{%endif%}{%endif%}" + kLoop +
               "{%if(message['role']=='user')or(message['role']=='system'andnotloop.first)or"
               "(message['role']=='assistant'andnotmessage.tool_calls)%}" +
               chatml_turn() + "{%elifmessage['role']=='assistant'%}",
           "{%elifmessage['role']=='tool'%}", "{%endfor%}" + kAsked + chatml_asked()},
          24,
          "",
          {"{%settool_call=tool_call.function%}"},
          /*all_but_set=*/true};
}

// ChatML with the first system message taken out of the loop (Ouro): with a default for it or
// without, and with an opening <think> that nobody asks for here.
Shape chatml_first_system(const std::string& name, bool thinks) {
  const std::string fallback = chat_format(name).default_system;
  return {
      name,
      {"{%ifmessages[0]['role']=='system'%}"
       "{{'<|im_start|>system\n'+messages[0]['content']+'<|im_end|>\n'}}" +
       (fallback.empty() ? "" : "{%else%}{{'<|im_start|>system\n" + fallback + "<|im_end|>\n'}}") +
       "{%endif%}" + kLoop + "{%ifmessage['role']=='system'andloop.first%}{%else%}" +
       chatml_turn() + "{%endif%}{%endfor%}" + kAsked + "{{'<|im_start|>assistant\n'}}" +
       (thinks ? "{%ifenable_thinkingisdefinedandenable_thinkingistrue%}{{'<think>\n'}}"
                 "{%endif%}"
               : "") +
       "{%endif%}"},
      3 + (fallback.empty() ? 0 : 1) + (thinks ? 1 : 0),
      ""};
}

std::vector<std::string> llama3_pieces() {
  return {
      "{%setloop_messages=messages%}{%formessageinloop_messages%}"
      "{%setcontent='<|start_header_id|>'+message['role']+'<|end_header_id|>\n\n'"
      "+message['content']|trim+'<|eot_id|>'%}"
      "{%ifloop.index0==0%}{%setcontent=bos_token+content%}{%endif%}{{content}}{%endfor%}",
      "{{'<|start_header_id|>assistant<|end_header_id|>\n\n'}}"};
}

Shape phi3(const std::string& system_condition) {
  const auto turn = [](const std::string& role) {
    return "{{'<|" + role + "|>\n'+message['content']+'<|end|>\n'}}";
  };
  return {"phi3",
          {kLoop + "{%ifmessage['role']=='system'" + system_condition + "%}" + turn("system") +
           "{%elif" + if_role("user") + turn("user") + "{%elif" + if_role("assistant") +
           turn("assistant") + "{%endif%}{%endfor%}" + kAsked +
           "{{'<|assistant|>\n'}}{%else%}{{eos_token}}{%endif%}"},
          5,
          ""};
}

Shape zephyr() {
  const auto turn = [](const std::string& role) {
    return if_role(role) + "{{'<|" + role + "|>\n'+message['content']+eos_token}}\n";
  };
  return {
      "zephyr",
      {kLoop + "{%if" + turn("user") + "{%elif" + turn("system") + "{%elif" + turn("assistant") +
       "{%endif%}{%ifloop.lastandadd_generation_prompt%}{{'<|assistant|>'}}\n{%endif%}"
       "{%endfor%}"},
      4,
      "\n\n\n\n"};
}

Shape gemma() {
  return {"gemma",
          {"{%ifmessages[0]['role']=='system'%}{{raise_exception(", kLoop + kAlternate,
           "{%endif%}{%if(message['role']=='assistant')%}{%setrole='model'%}{%else%}"
           "{%setrole=message['role']%}{%endif%}"
           "{{'<start_of_turn>'+role+'\n'+message['content']|trim+'<end_of_turn>\n'}}{%endfor%}" +
               kAsked + "{{'<start_of_turn>model\n'}}{%endif%}"},
          4,
          "",
          {"{%endif%}"}};
}

Shape mistral_instruct() {
  return {"mistral-instruct",
          {kLoop + kAlternate,
           "{%endif%}{%if" + if_role("user") + "{{'[INST] '+message['content']+' [/INST]'}}{%elif" +
               if_role("assistant") + "{{message['content']+eos_token}}{%else%}{{raise_exception(",
           "{%endif%}{%endfor%}"},
          4,
          ""};
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> table = {
      {"chatml", {kLoop + chatml_turn() + "{%endfor%}", kAsked + chatml_asked()}, 2, ""},
      chatml_with_default("smollm2"),
      chatml_with_default("qwen2"),
      qwen2_5(),
      chatml_first_system("chatml", false),
      chatml_first_system("chatml", true),
      chatml_first_system("qwen2", false),
      chatml_first_system("qwen2", true),
      {"llama3", llama3_pieces(), 2, "", {kAsked, "{%endif%}"}},
      phi3(""),
      phi3("andmessage['content']"),
      zephyr(),
      gemma(),
      mistral_instruct(),
      {"plain-qa", {kLoop + "{{message['content']+'\n'}}{%endfor%}"}, 1, ""},
  };
  return table;
}

// Whether the statements between two pieces leave alone what those write.
bool harmless(std::string_view between, const Shape& shape) {
  for (size_t at = 0; (at = between.find("{%", at)) != std::string_view::npos; at += 2) {
    const std::string_view rest = between.substr(at);
    if (shape.all_but_set && !rest.starts_with("{%set")) continue;
    if (std::ranges::none_of(shape.statements,
                             [&](const std::string& one) { return rest.starts_with(one); }))
      return false;
  }
  return true;
}

bool fits(const Canonical& found, const Shape& shape) {
  if (found.outputs != shape.outputs || found.literal != shape.literal) return false;
  const std::string_view text = found.text;
  size_t at = 0;
  for (const std::string& piece : shape.pieces) {
    const size_t begin = text.find(piece, at);
    if (begin == std::string_view::npos) return false;
    if (!harmless(text.substr(at, begin - at), shape)) return false;
    at = begin + piece.size();
  }
  return harmless(text.substr(at), shape);
}

}  // namespace

ChatFormat recognize_chat_format(const std::string& jinja, const std::string& bos,
                                 const std::string& eos, const std::string& where) {
  std::optional<Canonical> found;
  if (jinja.size() <= kMaxTemplateBytes) found = canonical_form(jinja);
  bool writes_bos = false;
  if (found && found->text.starts_with("{{bos_token}}")) {
    found->text.erase(0, std::string_view("{{bos_token}}").size());
    --found->outputs;
    writes_bos = true;
  }
  for (const Shape& shape : shapes()) {
    if (!found || !fits(*found, shape)) continue;
    ChatFormat format = chat_format(shape.format);
    if (format.name == "llama3") writes_bos = true;
    const bool uses_eos = found->text.find("eos_token") != std::string::npos;
    if ((writes_bos && bos.empty()) || (uses_eos && eos.empty()))
      fail("{}: the template of chat format '{}' writes a {} token, but the model names none",
           where, format.name, writes_bos && bos.empty() ? "BOS" : "EOS");
    format.begin = writes_bos ? "{bos}" : "";
    if (writes_bos) format.bos = bos;
    if (uses_eos) format.eos = eos;
    if (format.name == "phi3")
      format.skip_empty_system = found->text.find("andmessage['content']") != std::string::npos;
    return format;
  }
  fail(
      "{}: this chat template is none of the known formats; name one with --chat-template ({}), or "
      "give raw text",
      where, fmt::join(chat_format_names(), ", "));
}

}  // namespace reprise
