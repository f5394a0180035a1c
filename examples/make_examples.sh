#!/usr/bin/env bash
# Makes the voices and the close-up of examples/batch/ (needs espeak-ng, ffmpeg and Pillow).
set -euo pipefail
cd "$(dirname "$0")/batch"
say() { espeak-ng -v "$1" -s "$2" -p "$3" -w "$4" "$5"; }
say en-us+f3 150 55 eileen_collins_welcome.wav "Good evening, and welcome aboard. My name is Anna, and I am happy to show you around the ship today."
say cmn+f2 150 55 eileen_collins_问候.wav "大家好，欢迎来到我们的节目。今天我们一起看看美丽的星空。"
say en-gb+f4 140 50 part1.wav "Three things matter."
say en-gb+f4 140 50 part2.wav "Keep your promises."
say en-gb+f4 140 50 part3.wav "And never lose a job."
ffmpeg -v error -y -i part1.wav -i part2.wav -i part3.wav -filter_complex \
  "[0]apad=pad_dur=1.8[a];[1]apad=pad_dur=2.2[b];[2]apad=pad_dur=0.7[c];[a][b][c]concat=n=3:v=0:a=1" painted_anna.wav
rm part1.wav part2.wav part3.wav
say en-us+m3 165 45 close_up.wav "Please, bring more paper and five fresh maps before Friday."
ffmpeg -v error -y -i close_up.wav -b:a 64k close_up.mp3 && rm close_up.wav
say en 160 50 broken_picture.wav "Nobody will ever see this."
echo "This is not a picture." > broken_picture.jpg
python3 - <<'PY'
from PIL import Image
Image.open("eileen_collins.png").convert("RGB").crop((120, 10, 330, 220)).resize((640, 640), Image.LANCZOS).save("close_up.png")
PY
