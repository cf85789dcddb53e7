#!/usr/bin/env bash
# CLI11 2.1.2 (Debian's libcli11-dev): an option made by add_option_function<std::string> that may be repeated
# (MultiOptionPolicy::TakeAll) gives its function one value only. The others are accepted, counted and reported by
# count(), but nobody gets them. With trigger_on_parse() the function is called for each.
#
# Guess before running: called for every value, or an error for the second one.
# Seen: `--set a=1 --set b=2` calls it once, with a=1; count() is 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -q libcli11-dev=2.1.2+ds-1 > /dev/null 2>&1
dpkg-deb -x libcli11-dev_*.deb package

cat > probe.cc <<'C'
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>
int main(int argc, char** argv) {
  CLI::App app;
  std::string once, each;
  auto* plain = app.add_option_function<std::string>("--set", [&](const std::string& value) { once += value + ";"; });
  plain->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option_function<std::string>("--put", [&](const std::string& value) { each += value + ";"; })
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->trigger_on_parse();
  CLI11_PARSE(app, argc, argv);
  std::cout << "set " << plain->count() << " " << once << " put " << each << "\n";
}
C
g++ -std=c++17 -Ipackage/usr/include probe.cc -o probe
found=$(./probe --set a=1 --set b=2 --put a=1 --put b=2)
echo "$found"
[ "$found" = "set 2 a=1; put a=1;b=2;" ] || { echo "changed"; exit 1; }
echo "as described"
