#!/usr/bin/env bash
# Installs the Debian packages Reprise is built with, where they are missing. Quick when all are there.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config python3
  libfmt-dev nlohmann-json3-dev libcli11-dev libyaml-cpp-dev zlib1g-dev
  libpcre2-dev libutf8proc-dev libpng-dev libjpeg62-turbo-dev libwebp-dev libgif-dev libtiff-dev libedit-dev
  libsentencepiece-dev nettle-dev libopenblas0-pthread
  libgtest-dev libgmock-dev libsimde-dev qemu-user
)

missing=()
for package in "${packages[@]}"; do
  # cmake and ninja may come from elsewhere (pip); a program on the PATH will do.
  case "$package" in
    cmake) command -v cmake > /dev/null && continue ;;
    ninja-build) command -v ninja > /dev/null && continue ;;
    python3) command -v python3 > /dev/null && continue ;;
    pkg-config) command -v pkg-config > /dev/null && continue ;;
  esac
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "Installing Debian packages: ${missing[*]}"
if [ "$(id -u)" -eq 0 ]; then
  run=()
elif command -v sudo > /dev/null; then
  run=(sudo)
else
  echo "error: these packages are missing and this user can't install them: ${missing[*]}" >&2
  echo "       as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
"${run[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
