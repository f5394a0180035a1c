// Which picture goes with which recording: the rules of queue_bridge/intake/pairing.py, so that it can be said before anything
// is sent. A test holds both against each other.

const words = (text) => new Set(text.split(" "));
const PICTURES = words(".png .jpg .jpeg .webp .bmp .tif .tiff .gif .avif .heic");
const SOUNDS = words(".wav .mp3 .flac .ogg .oga .opus .m4a .aac .wma .aif .aiff .webm");
const PASSED_OVER = words(".md .txt .json .csv .html .pdf .ini .db .mp4");
const SEPARATORS = ["_", "-", ".", " "];
export const ACCEPTED = [...PICTURES, ...SOUNDS, ".zip"].join(",");

function split(name) {
  const at = name.lastIndexOf(".");
  return at > 0 && at < name.length - 1 ? [name.slice(0, at), name.slice(at)] : [name, ""];
}
const comparable = (name) => name.normalize("NFC").toLowerCase().replaceAll("ß", "ss");
const inOrder = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

/** names: of the files of one folder. Answers {pairs: [{name, portrait, voice}], leftOut: [{name, why, ...}]}. */
export function pair(names) {
  const leftOut = [];
  const [pictures, sounds] = [new Map(), new Map()];
  for (const name of [...names].sort(inOrder)) {
    const [stem, suffix] = split(name);
    const kind = suffix.toLowerCase();
    if (name.startsWith(".") || PASSED_OVER.has(kind)) continue;
    if (/[\p{C}\p{Z}]/u.test(name.replaceAll(" ", ""))) leftOut.push({ name, why: "hidden" });
    else if (!PICTURES.has(kind) && !SOUNDS.has(kind)) leftOut.push({ name, why: "unknown", suffix: suffix || name });
    else {
      const group = PICTURES.has(kind) ? pictures : sounds;
      group.set(comparable(stem), [...(group.get(comparable(stem)) ?? []), name]);
    }
  }
  takeDoubles(pictures, "pictures", leftOut);
  takeDoubles(sounds, "recordings", leftOut);
  const [pairs, used] = [[], new Set()];
  for (const [key, [voice]] of sounds) {
    const owner = ownerOf(key, pictures);
    if (owner === null) leftOut.push({ name: voice, why: "noPicture" });
    else {
      used.add(owner);
      pairs.push({ name: split(voice)[0], portrait: pictures.get(owner)[0], voice });
    }
  }
  for (const [key, [picture]] of pictures) if (!used.has(key)) leftOut.push({ name: picture, why: "noSound" });
  return { pairs: pairs.sort((a, b) => inOrder(a.name, b.name)), leftOut: leftOut.sort((a, b) => inOrder(a.name, b.name)) };
}

function takeDoubles(files, kind, leftOut) {
  for (const [key, names] of [...files]) {
    if (names.length < 2) continue;
    files.delete(key);
    for (const name of names) leftOut.push({ name, why: "double", names, kind });
  }
}

function ownerOf(sound, pictures) {
  if (pictures.has(sound)) return sound;
  const beginnings = [...pictures.keys()].filter((name) => SEPARATORS.some((mark) => sound.startsWith(name + mark)));
  if (beginnings.length) return beginnings.reduce((a, b) => ([...b].length > [...a].length ? b : a));
  return pictures.size === 1 ? pictures.keys().next().value : null;
}
