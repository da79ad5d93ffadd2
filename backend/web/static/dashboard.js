// The page works without this: it keeps the live part fresh and shows a strategy's own options.
"use strict";

const REFRESH_MS = 3000;

async function refresh(live) {
  if (document.hidden || live.contains(document.activeElement)) return;
  const source = new URL(live.dataset.source, location.origin); // an address with a password is refused
  const answer = await fetch(source, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`${source.pathname} answered ${answer.status}`);
  live.innerHTML = await answer.text(); // made and escaped by the same server
  live.classList.remove("stale");
}

function showOptions(choice) {
  document.getElementById("summary").textContent = choice.selectedOptions[0].dataset.summary;
  for (const fields of document.querySelectorAll("fieldset[data-strategy]")) {
    const isChosen = fields.dataset.strategy === choice.value;
    fields.hidden = !isChosen;
    fields.disabled = !isChosen;
  }
}

const live = document.getElementById("live");
const grey = (error) => { live.classList.add("stale"); console.warn(error); };
if (live) setInterval(() => refresh(live).catch(grey), REFRESH_MS);
const choice = document.getElementById("strategy");
if (choice) choice.addEventListener("change", () => showOptions(choice));
