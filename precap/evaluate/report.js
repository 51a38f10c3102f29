"use strict";
// The gallery. Everything from the data reaches the page through textContent, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { runs, metrics, items } = data;
  const $ = (id) => document.getElementById(id);
  const several = runs.length > 1;
  const BATCH = 48;
  const state = { list: [], shown: 0, open: -1, word: null };

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function add(parent, ...children) {
    parent.append(...children);
    return parent;
  }

  // ---- numbers -------------------------------------------------------------------------------
  const chosenMetric = () => Math.max(0, metrics.indexOf($("metric").value));
  const chosenRun = () => ($("run") ? Number($("run").value) : 0);
  const score = (item, run, metric) => (item.s[run] ? item.s[run][metric] ?? null : null);
  const number = (value) => (value === null ? "–" : value.toFixed(3));

  const cuts = metrics.map((_, metric) => {  // quintiles over all runs: the colour of a chip
    const all = items.flatMap((item) => runs.map((_, run) => score(item, run, metric)));
    const sorted = all.filter((value) => value !== null).sort((a, b) => a - b);
    return [1, 2, 3, 4].map((k) => sorted[Math.floor((sorted.length * k) / 5)]);
  });

  function chip(item, run, metric) {
    const value = score(item, run, metric);
    const level = value === null ? "" : ` q${cuts[metric].filter((cut) => value > cut).length}`;
    const node = make("span", "chip" + level, number(value));
    node.title = metrics[metric] || "";
    return node;
  }

  // ---- which items, in which order -----------------------------------------------------------
  const texts = new Map();
  function textOf(item) {
    if (!texts.has(item)) {
      texts.set(item, [item.id, item.d || "", ...item.c, ...item.refs].join("\n").toLowerCase());
    }
    return texts.get(item);
  }

  function keep(item, words, filter) {
    if (filter === "look" && !item.a) return false;
    if (filter === "differ" && item.c.every((caption) => caption === item.c[0])) return false;
    if (filter.startsWith("domain:") && item.d !== filter.slice(7)) return false;
    return words.every((word) => textOf(item).includes(word));
  }

  function gap(item, metric) {
    const values = runs.map((_, run) => score(item, run, metric)).filter((value) => value !== null);
    return values.length ? Math.max(...values) - Math.min(...values) : -1;
  }

  function order(list) {
    const metric = chosenMetric(), run = chosenRun(), how = $("order").value;
    const by = {
      best: (item) => -(score(item, run, metric) ?? -Infinity),
      worst: (item) => score(item, run, metric) ?? Infinity,
      gap: (item) => -gap(item, metric),
      long: (item) => -Math.max(...item.c.map((caption) => (caption || "").length)),
    }[how];
    if (!by) return list;
    return list.map((item) => [by(item), item]).sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0))
      .map((pair) => pair[1]);
  }

  const searched = () => $("search").value.toLowerCase().split(/\s+/).filter(Boolean);

  function refresh() {
    const words = searched();
    state.list = order(items.filter((item) => keep(item, words, $("filter").value)));
    state.shown = 0;
    $("cards").replaceChildren();
    $("count").textContent = `${state.list.length.toLocaleString("en")} of ${items.length.toLocaleString("en")}`;
    grow();
  }

  function grow() {
    const words = searched(), next = state.list.slice(state.shown, state.shown + BATCH);
    $("cards").append(...next.map((item, k) => card(item, state.shown + k, words)));
    state.shown += next.length;
    const left = state.list.length - state.shown;
    $("more").textContent = left ? `${left.toLocaleString("en")} more below` :
      state.list.length ? "" : "Nothing fits. Clear the search or the filter.";
  }

  // ---- a card --------------------------------------------------------------------------------
  function marked(node, text, words) {
    const places = [];
    const low = text.toLowerCase();
    for (const word of words) {
      if (low.length !== text.length) break;  // a letter whose lower case is longer: no marks
      for (let at = low.indexOf(word); at >= 0; at = low.indexOf(word, at + word.length)) {
        places.push([at, at + word.length]);
      }
    }
    let done = 0;
    for (const [from, to] of places.sort((a, b) => a[0] - b[0])) {
      if (from < done) continue;
      add(node, text.slice(done, from), make("mark", "", text.slice(from, to)));
      done = to;
    }
    return add(node, text.slice(done));
  }

  function picture(item, big) {
    const source = (big && item.big) || item.t;
    if (!source) return make("span", "", "no picture");
    const image = make("img");
    image.alt = "";
    image.src = "data:image/jpeg;base64," + source;
    return image;
  }

  function said(item, run, words) {
    const line = make("p", "said");
    const caption = item.c[run];
    const text = marked(make("span", several ? `r${run % 6}` : ""), caption ?? "(no caption)", words);
    if (several) text.title = runs[run];
    return add(line, text, metrics.length ? chip(item, run, chosenMetric()) : "");
  }

  function truth(item, words) {
    const list = make("ul", "truth");
    for (const reference of item.refs) add(list, marked(make("li"), reference, words));
    return list;
  }

  function card(item, index, words) {
    const node = make("article", "card");
    node.tabIndex = 0;
    node.dataset.index = index;
    node.dataset.id = item.id;
    node.setAttribute("aria-label", item.id);
    const frame = add(make("div", "frame"), picture(item, false));
    if (item.a) add(frame, make("span", "tag", "attention"));
    const text = make("div", "text");
    runs.forEach((_, run) => add(text, said(item, run, words)));
    if ($("refs").checked) add(text, truth(item, words));
    const line = add(make("p", "id"), make("span", "", item.id));
    line.title = item.id;
    if (item.d) add(line, make("span", "", item.d));
    return add(node, frame, add(text, line));
  }

  // ---- one image, with the attention of its words --------------------------------------------
  function view(index) {
    if (index < 0 || index >= state.list.length) return;
    const item = state.list[index];
    state.open = index;
    state.word = null;
    const stage = add(make("div", "stage"), picture(item, true));
    const side = make("div");
    const steps = [];
    runs.forEach((name, run) => {
      if (several) add(side, add(make("h3"), make("i", `swatch r${run % 6}`), name));
      const look = item.a && item.a[run];
      if (!look) return add(side, make("p", "", item.c[run] ?? "(no caption)"));
      const row = make("div", "words");
      look.words.forEach((word, t) => {
        const button = make("button", "", word);
        button.type = "button";
        button.addEventListener("click", () => choose(steps.findIndex((s) => s.button === button)));
        steps.push({ button, look, t });
        add(row, button);
      });
      return add(side, row);
    });
    if (steps.length) add(side, make("p", "hint", "Choose a word to see where it looked."));
    add(side, table(item), make("h3", "", "References"), truth(item, []));
    add(side, make("p", "foot", `${item.id}${item.d ? " · " + item.d : ""} · ${index + 1} of ${state.list.length}`));
    const close = make("button", "close", "×");
    close.type = "button";
    close.title = "Close (Esc)";
    close.addEventListener("click", () => $("viewer").close());
    state.steps = steps;
    state.stage = stage;
    $("viewer").replaceChildren(add(make("div", "view"), stage, side), close);
    if (!$("viewer").open) $("viewer").showModal();
  }

  function table(item) {
    const head = add(make("tr"), make("th"));
    runs.forEach((name) => add(head, make("th", "", several ? name : "score")));
    const body = make("tbody");
    metrics.forEach((metric, m) => {
      const row = add(make("tr"), make("th", "", metric));
      runs.forEach((_, run) => add(row, add(make("td"), chip(item, run, m))));
      add(body, row);
    });
    return add(make("table"), add(make("thead"), head), body);
  }

  function choose(step) {
    const steps = state.steps || [];
    if (!steps.length) return;
    const same = state.word === step;
    state.word = same ? null : (step + steps.length) % steps.length;
    steps.forEach((s, k) => s.button.setAttribute("aria-pressed", String(k === state.word)));
    state.stage.querySelector("canvas")?.remove();
    if (state.word !== null) {
      add(state.stage, heat(steps[state.word]));
      steps[state.word].button.focus();
    }
  }

  const HEAT = [[13, 8, 60], [106, 23, 110], [188, 55, 84], [243, 120, 25], [252, 255, 164]];
  function colour(level) {  // 0..1 -> r, g, b, alpha
    const at = Math.min(3.999, level * 4), k = Math.floor(at), f = at - k;
    const mix = HEAT[k].map((value, c) => Math.round(value + f * (HEAT[k + 1][c] - value)));
    return [...mix, 0.15 + 0.6 * level];
  }

  function heat({ look, t }) {
    look.bytes ||= Uint8Array.from(atob(look.w), (letter) => letter.charCodeAt(0));
    const places = look.bytes.length / look.words.length;
    const levels = look.bytes.subarray(t * places, (t + 1) * places);
    const canvas = make("canvas");
    canvas.width = 520;
    canvas.height = Math.max(1, Math.round(520 * state.stage.clientHeight / (state.stage.clientWidth || 1)));
    const pen = canvas.getContext("2d");
    if (look.grid) paintGrid(pen, canvas, look.grid, levels);
    else paintBoxes(pen, canvas, look.boxes, levels);
    return canvas;
  }

  function paintGrid(pen, canvas, [rows, columns], levels) {
    const small = make("canvas");
    small.width = columns;
    small.height = rows;
    const pixels = new ImageData(columns, rows);
    levels.forEach((level, k) => {
      const [r, g, b, alpha] = colour(level / 255);
      pixels.data.set([r, g, b, Math.round(alpha * 255)], k * 4);
    });
    small.getContext("2d").putImageData(pixels, 0, 0);
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  function paintBoxes(pen, canvas, boxes, levels) {
    pen.fillStyle = "rgba(13, 8, 60, .35)";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    const ranked = boxes.map((box, k) => [levels[k], box]).sort((a, b) => a[0] - b[0]);
    for (const [level, [x0, y0, x1, y1]] of ranked) {
      const [r, g, b] = colour(level / 255);
      const place = [x0 * canvas.width, y0 * canvas.height, (x1 - x0) * canvas.width, (y1 - y0) * canvas.height];
      pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${0.5 * (level / 255) ** 2})`;
      pen.fillRect(...place);
      if (level < 64) continue;
      pen.strokeStyle = `rgba(${r}, ${g}, ${b}, ${level / 255})`;
      pen.lineWidth = 1 + 3 * (level / 255);
      pen.strokeRect(...place);
    }
  }

  // ---- keyboard ------------------------------------------------------------------------------
  function move(by) {
    const cards = [...$("cards").children];
    if (!cards.length) return;
    const at = cards.indexOf(document.activeElement);
    if (at + by >= cards.length) grow();
    const next = $("cards").children[Math.min(Math.max(at + by, 0), $("cards").children.length - 1)];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }

  function across() {  // cards in a row
    const [first, ...rest] = $("cards").children;
    return first ? 1 + rest.findIndex((node) => node.offsetTop > first.offsetTop) || rest.length + 1 : 1;
  }

  function toggle(id) {
    $(id).checked = !$(id).checked;
    $(id).dispatchEvent(new Event("input", { bubbles: true }));
  }

  const inViewer = {
    ArrowRight: () => choose(state.word === null ? 0 : state.word + 1),
    ArrowLeft: () => choose(state.word === null ? -1 : state.word - 1),
    n: () => view(state.open + 1),
    p: () => view(state.open - 1),
  };
  const inGallery = {
    j: () => move(1), ArrowRight: () => move(1), k: () => move(-1), ArrowLeft: () => move(-1),
    ArrowDown: () => move(across()), ArrowUp: () => move(-across()),
    Enter: () => document.activeElement.dataset.index && view(Number(document.activeElement.dataset.index)),
    "/": () => $("search").focus(),
    r: () => toggle("refs"),
    "?": () => $("help").showModal(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const typing = document.activeElement.matches("input, select, textarea");
    if (typing && !$("viewer").open) {
      if (event.key === "Escape") document.activeElement.blur();
      return;
    }
    const onCard = document.activeElement.dataset.index !== undefined;
    if (event.key.startsWith("Arrow") && !onCard && !$("viewer").open) return;  // the page scrolls
    const action = ($("viewer").open ? inViewer : inGallery)[event.key];
    if (!action || (event.key === "Enter" && !onCard)) return;
    event.preventDefault();
    action();
  });

  $("viewer").addEventListener("close", () => {
    const node = $("cards").children[state.open];
    if (node) node.focus();
  });
  for (const box of [$("viewer"), $("help")]) {
    box.addEventListener("click", (event) => event.target === box && box.close());
  }
  $("cards").addEventListener("click", (event) => {
    const node = event.target.closest(".card");
    if (node) view(Number(node.dataset.index));
  });
  $("keys").addEventListener("click", () => $("help").showModal());
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" :
      matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // ---- start ---------------------------------------------------------------------------------
  for (const metric of metrics) add($("metric"), new Option(metric));
  if (metrics.includes("CIDEr")) $("metric").value = "CIDEr";
  if ($("run")) runs.forEach((name, run) => add($("run"), new Option(name, run)));
  let waiting = 0;
  $("bar").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 60);
  });
  $("bar").addEventListener("submit", (event) => event.preventDefault());
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && state.shown < state.list.length) grow();
  }, { rootMargin: "1200px" }).observe($("more"));
  refresh();
})();
