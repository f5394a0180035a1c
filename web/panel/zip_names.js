// What a ZIP holds, read from its table of contents, so that nothing has to be unpacked or sent to say it.

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LONGEST_END = 22 + 65_535;
const LARGEST_TABLE = 32 << 20;

/** Names of its entries, folders ending with "/". null when it is none, or a kind that is not read here. */
export async function zipNames(file) {
  const tail = new DataView(await file.slice(Math.max(0, file.size - LONGEST_END)).arrayBuffer());
  let at = tail.byteLength - 22;
  while (at >= 0 && tail.getUint32(at, true) !== END) at -= 1;
  if (at < 0) return null;
  const [size, start] = [tail.getUint32(at + 12, true), tail.getUint32(at + 16, true)];
  if (start === 0xffffffff || size > LARGEST_TABLE || start + size > file.size) return null;
  const table = new DataView(await file.slice(start, start + size).arrayBuffer());
  const names = [];
  for (let here = 0; here + 46 <= table.byteLength && table.getUint32(here, true) === ENTRY; ) {
    const lengths = [28, 30, 32].map((offset) => table.getUint16(here + offset, true));
    const name = new Uint8Array(table.buffer, here + 46, Math.min(lengths[0], table.byteLength - here - 46));
    names.push(decoded(name));
    here += 46 + lengths[0] + lengths[1] + lengths[2];
  }
  return names;
}

function decoded(name) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(name);
  } catch {
    return new TextDecoder("latin1").decode(name);
  }
}

const isJunk = (name) => name.split("/").some((part) => part === "__MACOSX" || part === ".DS_Store" || part.startsWith("._"));

/** The files that are read as one folder, and folders in it; as the gateway reads it: one folder alone is gone into. */
export function folderOf(names) {
  let files = names.map((name) => name.replaceAll("\\", "/").replace(/^\.\//, "")).filter((name) => name && !isJunk(name));
  const tops = new Set(files.map((name) => name.split("/")[0]));
  if (tops.size === 1 && files.some((name) => name.includes("/"))) {
    files = files.map((name) => name.slice(name.indexOf("/") + 1)).filter(Boolean);
  }
  const folders = new Set(files.filter((name) => name.includes("/")).map((name) => name.split("/")[0]));
  return { files: files.filter((name) => !name.includes("/")), folders: [...folders] };
}
