#!/usr/bin/env bash
# The main job on the embedded model: questions about a picture, answered on the CPU, with what it took.
set -euo pipefail
cd "$(dirname "$0")/.."
reprise=${1:-build/release/reprise}
model=models/tiny-trol.gguf
picture=${2:-models/demo/triangle.png}

echo "== The model: every layer is visited twice over the prompt, and both results are mixed per token"
"$reprise" inspect "$model"
echo
echo "== Questions about $picture"
for question in "what shape is in the image?" "what color is the shape?" \
                "is there a circle in the image?" "is there not a red shape in the image?"; do
  echo "> $question"
  "$reprise" run "$model" --image "$picture" --prompt "$question"
done
echo
echo "Your own picture: $reprise run $model --image PICTURE.png --prompt \"what shape is shown?\""
echo "(the model knows circles, rectangles and triangles in eight colours, nothing else)"
echo
echo "== A model that loops six layers three times: each token leaves when it is sure, after one loop, two or three"
looped=models/tiny-recursive.gguf
for text in "The function returns" "The table has a column for"; do
  echo "> $text"
  "$reprise" run "$looped" --prompt "$text" --max-tokens 48 --repetition-penalty 1.2 --color-exits
done
echo
echo "Where each token left, as a page: $reprise run $looped --prompt \"$text\" --max-tokens 48 --trace depths.html"
