"""The page of `rlx.preferences.page`: two canvases that play their strips in step, five buttons and their keys."""

from __future__ import annotations

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style nonce="$nonce">
body { font: 16px/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
[hidden] { display: none !important }
h1 { font-size: 1.2rem; margin: 0 }
#clips { display: flex; gap: 1rem; justify-content: center; margin: 1rem 0 }
figure { margin: 0; flex: 1; text-align: center }
canvas { max-width: 100%; min-width: 16rem; border: 1px solid #bbb; background: #fff; cursor: pointer }
#buttons { display: flex; flex-wrap: wrap; gap: .5rem; justify-content: center }
button { font: inherit; padding: .5rem 1rem }
kbd { font: 0.8em ui-monospace, monospace; border: 1px solid #999; border-radius: 3px; padding: 0 .3em }
progress { width: 100% }
#said { min-height: 1.5em; color: #a33 }
</style>
<h1>$question</h1>
<p><progress id="progress" value="0" max="1"></progress> <span id="count"></span></p>
<div id="clips">
<figure><canvas id="clip0" aria-label="left clip"></canvas><figcaption>left</figcaption></figure>
<figure><canvas id="clip1" aria-label="right clip"></canvas><figcaption>right</figcaption></figure>
</div>
<div id="buttons">
<button id="left">left is better <kbd>&larr;</kbd></button>
<button id="tie">both alike <kbd>&darr;</kbd></button>
<button id="right">right is better <kbd>&rarr;</kbd></button>
<button id="unsure">cannot say <kbd>?</kbd></button>
<button id="undo">undo <kbd>u</kbd></button>
<button id="pause">pause <kbd>space</kbd></button>
<button id="finish">enough for now</button>
</div>
<p id="said" role="status"></p>
<script nonce="$nonce">
"use strict";
const byId = (id) => document.getElementById(id);
const ANSWERS = ["left", "right", "tie", "unsure"];
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", "?": "unsure", u: "undo", " ": "pause" };
const PERIOD = 80; // ms of a picture
let now = { question: null }, strips = [], tick = 0, paused = false, busy = false;

function draw() {
  strips.forEach((strip, side) => {
    const canvas = byId("clip" + side), pictures = now.pictures[side], high = strip.naturalHeight / pictures;
    const longest = Math.max(...now.pictures) + 6; // the last picture stays for a moment, and so does a clip that is shorter
    const at = Math.min(tick % longest, pictures - 1);
    if (canvas.width !== strip.naturalWidth || canvas.height !== high) {
      canvas.width = strip.naturalWidth; canvas.height = high;
    }
    canvas.getContext("2d").drawImage(strip, 0, at * high, strip.naturalWidth, high, 0, 0, strip.naturalWidth, high);
  });
}

function load(src) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("a clip could not be drawn"));
    image.src = src;
  });
}

async function show(state) {
  const clip = (side) => load("clip/" + state.question + "/" + side + ".png");
  const clips = state.question === null ? [] : await Promise.all([0, 1].map(clip));
  now = state; strips = clips; tick = 0;
  byId("progress").max = state.of; byId("progress").value = state.answered;
  byId("count").textContent = state.answered + " of " + state.of;
  byId("clips").hidden = state.question === null;
  ANSWERS.forEach((name) => { byId(name).disabled = state.question === null; });
  byId("said").textContent = state.question === null ? "All is answered. Thank you." : "";
  document.body.dataset.question = state.question === null ? "none" : state.question; // shown, and ready for an answer
  draw();
}

async function ask(path, body) {
  const reply = await fetch(path, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error);
  return found;
}

async function press(name) {
  if (name === "pause") { paused = !paused; return; }
  if (busy || (ANSWERS.includes(name) && now.question === null)) return;
  busy = true;
  try {
    if (name === "undo") await show(await ask("undo", {}));
    else if (name === "finish") {
      await ask("finish", {});
      document.body.textContent = "The answers are kept. The same command goes on.";
    }
    else await show(await ask("answer", { question: now.question, answer: name }));
  } catch (error) {
    const gone = error instanceof TypeError; // fetch found nobody
    if (!gone) await ask("state").then(show).catch(() => {}); // what this page knew may be old
    byId("said").textContent = gone ? "The server is gone. Answers are kept; start the same command again." : error.message;
  } finally { busy = false; }
}

[...ANSWERS, "undo", "pause", "finish"].forEach((name) => byId(name).addEventListener("click", () => press(name)));
[0, 1].forEach((side) => byId("clip" + side).addEventListener("click", () => press(["left", "right"][side])));
document.addEventListener("keydown", (event) => {
  const name = KEYS[event.key];
  if (!name || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  press(name);
});
setInterval(() => { if (!paused && strips.length) { tick += 1; draw(); } }, PERIOD);
ask("state").then(show).catch((error) => { byId("said").textContent = error.message; });
</script>
</html>
""")
