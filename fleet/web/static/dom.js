// Elements from texts. Nothing here, and so nothing on the page, ever reads a text as HTML.

/** An element: `{class: …, title: …, onclick: …}` are its attributes or listeners, the rest what is in it. */
export function make(tag, attributes = {}, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...content.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

/** Say this in an element; what says it already is left alone, so that nobody is told twice. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Say this, or hide the element when there is nothing to say. */
export function sayOrHide(element, text) {
  say(element, text);
  element.hidden = text === "";
}

/** A bar with its figure. */
export function meter(value, label) {
  const shown = value > 0.995 && value < 1 ? "> 99 %" : `${(100 * value).toFixed(0)} %`;
  return [
    make("meter", { min: 0, max: 1, value, "aria-label": label }),
    make("span", { class: "figure" }, shown),
  ];
}

/** The beginning of a digest; pressed, it shows all of it and copies it. */
export function digest(full, what) {
  if (!full) return make("span", {}, "none");
  const short = full.slice(0, 12);
  const button = make("button", { type: "button", class: "digest", title: full }, short);
  button.setAttribute("aria-label", `${what} ${short}, show and copy all of it`);
  button.addEventListener("click", async () => {
    const open = button.textContent === short;
    say(button, open ? full : short);
    if (!open) return;
    // Only a page from this machine or over TLS may write to the clipboard; elsewhere it is selected.
    try {
      await navigator.clipboard.writeText(full);
      button.dataset.copied = "copied";
      setTimeout(() => delete button.dataset.copied, 1500);
    } catch {
      getSelection().selectAllChildren(button);
    }
  });
  return button;
}
