// Elements without markup: what a job is called, or says, only ever becomes text.

/** An element. props: attributes; `on` has listeners, `class` and `text` are what they say; null, false: left out. */
export function el(name, props = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [kind, listener] of Object.entries(value)) made.addEventListener(kind, listener);
    else if (key === "text") made.textContent = value;
    else if (key === "class") made.className = value;
    else if (key in PROPERTIES) made[key] = value;
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((one) => one !== null && one !== undefined && one !== false));
  return made;
}
const PROPERTIES = { value: 1, checked: 1, disabled: 1, hidden: 1, selected: 1 };

/** Write a text only when it is another one, so that nothing is drawn or read aloud anew. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Let the children of a list be these, in this order; an element that stays is not taken out, so it keeps the focus. */
export function arrange(list, elements) {
  const wanted = new Set(elements);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((one, at) => {
    if (list.children[at] !== one) list.insertBefore(one, list.children[at] ?? null);
  });
}

/** Answers a call that waits until nobody holds the pointer down on a list: rows that move meanwhile would lose the click. */
export function stillness(list) {
  let released = null;
  const wait = () => (released = new Promise((free) => {
    const end = () => {
      for (const kind of ENDS) removeEventListener(kind, end);
      setTimeout(free); // after the click
    };
    for (const kind of ENDS) addEventListener(kind, end);
  }));
  list.addEventListener("pointerdown", wait);
  return () => released;
}
const ENDS = ["pointerup", "pointercancel", "blur"]; // blur: of the window, as none of an element comes up to it

/** A button. kind: "", "primary", "quiet" or "danger". label: for who cannot see beside what it stands. */
export function button(text, click, { kind = "", label = null, ...props } = {}) {
  return el("button", { type: "button", class: `button ${kind}`, "aria-label": label, on: { click }, ...props }, text);
}

let numbers = 0;
/** An id that nothing else on the page has. */
export function freshId(word) {
  numbers += 1;
  return `${word}-${numbers}`;
}

/** A field with its label, and a hint below where there is one. */
export function field(label, input, hint = "") {
  const id = freshId("field");
  input.id = id;
  const parts = [el("label", { for: id, text: label }), input];
  if (hint) {
    input.setAttribute("aria-describedby", `${id}-hint`);
    parts.push(el("small", { id: `${id}-hint`, class: "hint", text: hint }));
  }
  return el("div", { class: "field" }, ...parts);
}

export function select(options, chosen, change = () => {}) {
  const items = options.map(([value, text]) => el("option", { value, text, selected: value === chosen }));
  return el("select", { on: { change: (event) => change(event.target.value) } }, ...items);
}
