// What pages do beyond showing: try, and work in the background. All HTML comes from the console,
// escaped; nothing here makes markup of data.
"use strict";

const find = (id) => document.getElementById(id);

async function ask(path, body) {
  const options = { credentials: "same-origin" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = {
      "Content-Type": "application/json",
      "X-Sotto-Action": document.querySelector('meta[name="sotto-action"]').content,
    };
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The console does not answer: it was stopped, or is being started again.");
  }
  const json = (answer.headers.get("Content-Type") || "").startsWith("application/json");
  if (!answer.ok) {
    const message = json ? (await answer.json()).message : "something went wrong.";
    throw new Error(message.charAt(0).toUpperCase() + message.slice(1));
  }
  return json ? answer.json() : answer.text();
}

function put(place, html) {
  const made = new DOMParser().parseFromString(html, "text/html");
  place.replaceChildren(...made.body.childNodes);
}

function say(text, wrong = false) {
  const status = find("status");
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
}

function later(work, wait) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
}

// --- try it ---------------------------------------------------------------------------------------

function startTrying(page) {
  const labels = JSON.parse(page.dataset.labels);
  const chosen = { user: "", history: null };
  const results = page.querySelector(".results");
  let running = null;
  let again = false;

  // One request at a time: whatever changed meanwhile is asked for once it is answered.
  function show() {
    if (!chosen.user && chosen.history === null) return;
    again = true;
    running ??= repeat().finally(() => {
      running = null;
    });
  }

  async function repeat() {
    results.setAttribute("aria-busy", "true");
    while (again) {
      again = false;
      try {
        replaceResult(await ask("/api/recommend", question()));
      } catch (error) {
        say(error.message, true);
      }
    }
    results.removeAttribute("aria-busy");
  }

  function question() {
    const whom = chosen.user ? { user: chosen.user } : { history: chosen.history };
    return {
      ...whom,
      blend: Number(find("blend").value),
      k: Number(find("length").value),
      seen: find("seen").checked,
      category: find("category")?.value || "",
    };
  }

  function replaceResult(html) {
    const result = find("result");
    const open = new Set([...result.querySelectorAll("details[open]")].map(named));
    const focused = result.contains(document.activeElement) ? document.activeElement : null;
    const place = focused && focused.dataset.place;
    const summary = focused && focused.matches("summary") ? named(focused) : null;
    const length = () => `${find("tried")?.dataset.user} ${shown().length}`;
    const [before, scrolled] = [length(), result.querySelector(".events")?.scrollTop];
    put(result, html);
    for (const one of result.querySelectorAll("details")) one.open = open.has(named(one));
    const events = result.querySelector(".events");
    const stays = place !== null && place !== undefined;
    if (events) events.scrollTop = stays || length() === before ? scrolled : events.scrollHeight;
    if (stays) {
      const buttons = [...result.querySelectorAll("[data-place]")];
      (buttons[Math.min(Number(place), buttons.length - 1)] || find("title")).focus();
    } else if (summary !== null) {
      const same = [...result.querySelectorAll("summary")].find((one) => named(one) === summary);
      if (same) same.focus();
    }
    say(find("tried").dataset.status);
  }

  const named = (element) => element.closest("[data-recommended]").dataset.recommended;
  const shown = () => JSON.parse(find("tried")?.dataset.history || "[]");
  const soon = later(show, 60);

  function choose(user) {
    chosen.user = user;
    chosen.history = null;
    find("user").value = user;
    find("users").replaceChildren();
    find("user-found").textContent = "";
    show();
  }

  function edit(history) {
    chosen.user = "";
    chosen.history = history;
    show();
  }

  function searching(field, list, announced, path) {
    let asked = 0;
    const search = later(async () => {
      const own = ++asked;
      const text = find(field).value;
      if (!text.trim()) {
        find(list).replaceChildren();
        find(announced).textContent = "";
        return;
      }
      try {
        const html = await ask(path, { text: text.slice(0, 200) });
        if (own !== asked) return;
        put(find(list), html);
        const found = find(list).querySelector("[data-found]");
        find(announced).textContent = found ? `${found.dataset.found} found` : "";
      } catch (error) {
        say(error.message, true);
      }
    }, 150);
    find(field).addEventListener("input", search);
    const move = (event) => {
      if (event.key !== "ArrowDown" && event.key !== "ArrowUp" && event.key !== "Escape") return;
      const buttons = [...find(list).querySelectorAll("button")];
      const at = buttons.indexOf(document.activeElement);
      event.preventDefault();
      if (event.key === "Escape") {
        find(list).replaceChildren();
        find(field).focus();
      } else if (buttons.length) {
        const to = event.key === "ArrowDown" ? at + 1 : at - 1;
        (to < 0 ? find(field) : buttons[Math.min(to, buttons.length - 1)]).focus();
      }
    };
    find(field).addEventListener("keydown", move);
    find(list).addEventListener("keydown", move);
  }

  searching("user", "users", "user-found", "/api/users");
  searching("title", "titles", "title-found", "/api/titles");
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("user").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && find("user").value.trim()) choose(find("user").value.trim());
  });
  find("title").addEventListener("keydown", (event) => {
    if (event.key === "Enter") find("titles").querySelector("button")?.click();
  });
  page.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.user !== undefined) {
      choose(button.dataset.user);
      find("user").focus();
    } else if (button.dataset.item !== undefined) {
      await running;
      edit([...shown(), button.dataset.item]);
      find("titles").replaceChildren();
      find("title-found").textContent = "";
      find("title").value = "";
      find("title").focus();
    } else if (button.dataset.place !== undefined) {
      edit(shown().filter((_, place) => place !== Number(button.dataset.place)));
    } else if (button.id === "empty") {
      find("user").value = "";
      edit([]);
    } else if (button.id === "any") {
      try {
        choose((await ask("/api/any-user", {})).user);
      } catch (error) {
        say(error.message, true);
      }
    }
  });
  find("blend").addEventListener("input", () => {
    const label = labels[Number(find("blend").value)];
    find("blend").setAttribute("aria-valuetext", label);
    find("blend-label").textContent = label;
    soon();
  });
  find("length").addEventListener("input", () => {
    find("length-label").textContent = find("length").value;
    soon();
  });
  find("seen").addEventListener("change", show);
  find("category")?.addEventListener("change", show);
}

// --- work in the background -------------------------------------------------------------------------

function startWatching(job) {
  const name = job.dataset.job;
  const start = find("start");
  const stop = find("stop");

  async function watch(own) {
    let progress;
    try {
      progress = await ask(`/api/${name}`);
    } catch (error) {
      say(error.message, true);
      return;
    }
    find("running").hidden = !progress.running;
    start.disabled = progress.running;
    stop.hidden = !progress.running;
    if (progress.running) {
      find("step").textContent = progress.step;
      find("share").value = progress.share;
      setTimeout(() => watch(true), 300);
    } else if (own) {
      if (progress.problem) {
        say(progress.problem.charAt(0).toUpperCase() + progress.problem.slice(1), true);
        start.focus();
        return;
      }
      put(find("part"), await ask(`/part/${name}`));
      say("Done.");
      const title = find("measured-title");
      if (title) title.focus();
    }
  }

  start.addEventListener("click", async () => {
    say("Begun.");
    try {
      await ask(`/api/${name}`, { do: "start" });
      watch(true);
    } catch (error) {
      say(error.message, true);
    }
  });
  stop.addEventListener("click", () => ask(`/api/${name}`, { do: "stop" }));
  watch(false);
}

function waitForModel() {
  const look = async () => {
    const progress = await ask("/api/model");
    if (progress.done || progress.problem) location.reload();
    else setTimeout(look, 500);
  };
  setTimeout(look, 500);
}

if (find("try")) startTrying(find("try"));
if (find("job")) startWatching(find("job"));
if (find("loading")) waitForModel();
