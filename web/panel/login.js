// Asks for an API key.

import { isKey, setKey } from "./api.js";
import { el, field, say, show } from "./dom.js";
import { t } from "./text.js";

/** The page's content while a key is needed. why: a sentence on the last try, or "". then: called with the key in place. */
export function login(why, then) {
  const input = el("input", { type: "password", name: "key", autocomplete: "off", spellcheck: "false", required: true });
  const wrong = el("p", { class: "error", role: "alert", text: why, hidden: !why });
  const enter = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!isKey(text)) {
      say(wrong, t("loginShape"));
      show(wrong, true);
      input.focus();
      return;
    }
    setKey(text);
    then();
  };
  const node = el("form", { class: "gate", on: { submit: enter } }, el("h2", { text: t("loginTitle") }),
    el("p", { class: "quiet", text: t("loginWhy") }), field(t("loginLabel"), input, t("loginHint")), wrong,
    el("button", { class: "button primary", type: "submit", text: t("loginOpen") }));
  return { node, focus: () => input.focus() };
}
