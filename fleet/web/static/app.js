// The page: jobs go out, results come in, and the experts are watched meanwhile.

import { make, say, sayOrHide } from "./dom.js";
import { Experts } from "./experts.js";
import { JobForm } from "./form.js";
import { errorPart, resultParts, summary } from "./result.js";
import { Failure, answer, fieldsOf, hasKey, state, useKey } from "./service.js";

const POLL = 1500; // milliseconds between two looks at the experts
const KEPT = 20; // results on the page

const at = (id) => document.getElementById(id);
const experts = new Experts({ list: at("experts"), summary: at("summary"), filter: at("filter"), news: at("news") });
const form = new JobForm(
  {
    form: at("job"),
    inputs: at("inputs"),
    task: at("task"),
    top: at("top"),
    topChoice: at("top-choice"),
    send: at("send"),
    stop: at("stop"),
  },
  send,
  fieldsOf,
);
let sending = null;
let waitsForKey = null;

// ---- jobs

async function send(job) {
  sending?.abort();
  const mine = (sending = new AbortController());
  const body = make("div", { class: "body", "aria-busy": "true" });
  const card = make("li", { class: "result" }, make("p", { class: "asked" }, shown(job)), body);
  at("results").prepend(card);
  while (at("results").children.length > KEPT) at("results").lastElementChild.remove();
  const written = make("p", { class: "value text writing" });
  body.append(written);
  form.working(true);
  say(at("said"), "Sent.");
  const again = () => send(job);
  try {
    const result = await answer(job, (text) => written.append(text), mine.signal);
    body.replaceChildren(...resultParts(result, (task) => send(named(job, task)), again));
    say(at("said"), summary(result));
  } catch (error) {
    failed(error, body, again);
  } finally {
    body.removeAttribute("aria-busy");
    written.classList.remove("writing");
    if (sending === mine) {
      sending = null;
      form.working(false);
    }
  }
}

/** What was written so far stays, with the reason why there is no more. */
function failed(error, body, again) {
  if (error.name === "AbortError") {
    body.append(make("p", { class: "faint" }, "stopped"));
    say(at("said"), "Stopped.");
    return;
  }
  if (!(error instanceof Failure)) throw error;
  body.append(errorPart(error, again));
  say(at("said"), `No answer: ${error.message}`);
  if (error.status === 401) askForKey(again);
}

function named(job, task) {
  const { top, ...content } = job;
  return { ...content, task };
}

function shown(job) {
  return job.text ?? Object.entries(job.fields).map(([name, value]) => `${name}: ${value}`).join("\n");
}

at("stop").addEventListener("click", () => sending?.abort());

// ---- an API key, where one is asked for

function askForKey(then) {
  waitsForKey = then ?? waitsForKey;
  if (!at("key").hidden) return;
  at("key").hidden = false;
  at("key-value").focus();
}

at("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(at("key-value").value.trim());
  at("other-key").hidden = false;
  at("key").reset();
  at("key").hidden = true;
  const then = waitsForKey;
  waitsForKey = null;
  then?.();
  look();
});

at("other-key").hidden = !hasKey();
at("other-key").addEventListener("click", () => askForKey());

// ---- the experts, live

let timer = 0;
let lostAt = null;

async function look() {
  clearTimeout(timer);
  try {
    found(await state());
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (error.status === 401) {
      askForKey();
      return; // until there is a key
    }
    lost(error);
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, POLL);
}

function found(now) {
  lostAt = null;
  document.body.classList.remove("stale");
  sayOrHide(at("lost"), "");
  const router = now.router_version === null ? "no router" : `router ${now.router_version}`;
  const parts = [counted(now.replicas, "replica"), router, `${counted(now.waiting, "job")} in work`];
  say(at("service"), parts.join(" · "));
  const faults = [
    now.replicas === 0 && "No replica can take jobs yet.",
    now.router_fault && `The router: ${now.router_fault}.`,
    now.decisions?.alarm && abstains(now.decisions),
    now.registry_fault && `The registry cannot be asked, what was known last goes on: ${now.registry_fault}`,
  ];
  sayOrHide(at("faults"), faults.filter(Boolean).join(" "));
  experts.show(now);
  form.offer(now.experts);
}

function abstains({ alarm, since, share, low, high }) {
  const percent = (value) => (value === null ? "none" : `${Math.round(100 * value)} %`);
  return (
    `Since ${new Date(1000 * since).toLocaleString()} the router abstains ${alarm === "above" ? "more" : "less"} ` +
    `than its fit expects: ${percent(share)} in the last hour, fitted ${percent(low)} to ${percent(high)}.`
  );
}

function lost(error) {
  lostAt ??= new Date();
  document.body.classList.add("stale");
  sayOrHide(at("lost"), `Since ${lostAt.toLocaleTimeString()}: ${error.message}. What is shown is from before.`);
}

const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : look()));
look();
