"use strict";
(() => {
  // Everything that a model wrote goes into the page as text, never as markup.
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  // Charts: drawn one after the other from the top, so that the page answers meanwhile; those in closed parts wait
  // until these open and give them a width.
  const config = {
    background: "transparent",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    view: { stroke: "transparent" },
    axis: {
      labelColor: "var(--soft)", titleColor: "var(--soft)", gridColor: "var(--line)", domainColor: "var(--line)",
      tickColor: "var(--line)", titleFontWeight: 400, labelFontSize: 11, titleFontSize: 11,
    },
    axisY: { domain: false, labelPadding: 8 },
    legend: { labelColor: "var(--ink)", titleColor: "var(--soft)", labelFontSize: 11, symbolStrokeWidth: 0, symbolType: "circle", symbolOpacity: 1 },
    text: { fill: "var(--ink)" },
  };
  let drawing = false;
  const draw = async () => {
    if (drawing) return;
    drawing = true;
    const next = () => [...document.querySelectorAll(".chart:not([data-drawn])")].find((place) => place.offsetWidth);
    for (let place = next(); place; place = next()) {
      place.setAttribute("data-drawn", "begun");
      const spec = { ...data.charts[place.dataset.chart], config, autosize: { type: "fit-x", contains: "padding" } };
      try {
        await window.vegaEmbed(place, spec, { actions: false, renderer: "svg", logLevel: 1, tooltip: { theme: "custom" } });
        place.setAttribute("data-drawn", "done");
      } catch (error) {
        place.textContent = `This chart could not be drawn: ${error}`;
        console.error(error);
      }
      await new Promise((resolve) => setTimeout(resolve));
    }
    drawing = false;
  };
  document.addEventListener("toggle", draw, true);

  // Code: a line an element, with its mark and the colours of its tokens.
  const code = (place, marks, survives) => {
    const [text, runs] = data.texts[place];
    const block = make("pre", { class: "code", tabindex: "0" });
    if (!text) return make("p", { class: "soft" }, "nothing");
    const lines = [[]];
    const put = (piece, letter) => piece.split("\n").forEach((part, index) => {
      if (index) lines.push([]);
      if (part) lines[lines.length - 1].push(letter ? make("i", { class: letter }, part) : part);
    });
    let at = 0;
    for (const run of runs ? runs.split(",") : []) {
      const letter = /[a-z]/.test(run[0]) ? run[0] : "";
      const length = Number(letter ? run.slice(1) : run);
      put(text.slice(at, at + length), letter);
      at += length;
    }
    put(text.slice(at), "");
    if (lines.length > 1 && !lines[lines.length - 1].length) lines.pop();
    lines.forEach((parts, index) => {
      const n = index + 1, mark = (marks || "")[index];
      const line = make("div", { class: survives && survives[n] ? "line survives" : "line", "data-n": n,
        "data-mark": mark && mark !== " " ? mark : null, "data-survives": survives && survives[n] || null });
      line.append(make("span", null, ...parts));
      block.append(line);
    });
    return block;
  };
  const key = (...pairs) => make("p", { class: "key" },
    ...pairs.flatMap(([colour, words]) => [make("b", { style: `background: var(--${colour})` }), words]));

  const shown = (one) => {
    const found = document.createDocumentFragment();
    const counts = [];
    if (one.lines) counts.push(`${one.lines[0]} of ${one.lines[1]} statements and ${one.lines[2]} of ${one.lines[3]} branches covered`);
    if (one.mutants) counts.push(`${one.mutants[1] + one.mutants[2]} of ${one.mutants[0]} mutants caught`);
    if (one.tokens[1]) counts.push(`${one.tokens[1]} tokens written${one.tokens[2] === "length" ? ", cut off" : ""}`);
    found.append(make("p", null, make("b", null, one.reason), counts.length ? make("span", { class: "soft" }, ` · ${counts.join(" · ")}`) : ""));
    const survives = {};
    for (const [line] of one.survivors) survives[line] = (survives[line] || 0) + 1;
    const covered = make("div", null, make("h4", null, "Code under test"),
      one.covered ? key(["good", "covered"], ["bad", "not covered"]) : make("p", { class: "key" }, "coverage was not measured"),
      code(one.code, one.covered, survives));
    const test = make("div", null, make("h4", null, "Generated test"),
      one.outcomes ? key(["good", "passes"], ["bad", "fails"], ["unsure", "skipped"]) : make("p", { class: "key" }, "no test of it was run"),
      code(one.test, one.outcomes));
    found.append(make("div", { class: "columns" }, covered, test));
    if (one.results.length) {
      const list = make("ul", { class: "results" });
      for (const [name, outcome, message] of one.results) {
        list.append(make("li", null, make("span", { class: "outcome", "data-outcome": outcome }, outcome), ` ${name} `,
          message ? make("span", { class: "soft" }, message.split("\n")[0]) : ""));
      }
      found.append(make("h4", null, "Tests"), list);
    }
    if (one.mutants) {
      found.append(make("h4", null, "Surviving mutants"));
      if (!one.survivors.length) found.append(make("p", { class: "soft" }, one.mutants[0] ? "None: every planted fault was caught." : "There was nothing to mutate."));
      const list = make("div", { class: "mutants" });
      for (const [line, operator, diff] of one.survivors) {
        const text = make("pre", null);
        for (const part of diff.split("\n")) text.append(make("span", { class: part[0] === "+" ? "add" : "del" }, part));
        list.append(make("figure", null, make("figcaption", null, `line ${line} · ${operator}`), text));
      }
      found.append(list);
      if (one.hidden) found.append(make("p", { class: "soft" }, `${one.hidden} more are in samples.jsonl`));
    }
    if (data.texts[one.log][0]) found.append(make("h4", null, "Failure log"), make("pre", { class: "log", tabindex: "0" }, data.texts[one.log][0]));
    if (one.answer !== undefined && data.texts[one.answer][0]) {
      found.append(make("details", null, make("summary", { class: "soft" }, "The whole answer, as the model wrote it"),
        make("pre", { class: "log", tabindex: "0" }, data.texts[one.answer][0])));
    }
    return found;
  };

  const panel = (evaluations) => {
    const place = make("div", { class: "panel" });
    if (!evaluations) {
      place.append(make("p", { class: "soft" }, "Left out, so that the page does not become too large: see samples.jsonl."));
      return place;
    }
    const body = make("div", null);
    const buttons = evaluations.map((one, index) => {
      const button = make("button", { type: "button", "aria-pressed": index === 0 }, one.name);
      button.addEventListener("click", () => {
        buttons.forEach((other) => other.setAttribute("aria-pressed", other === button));
        body.replaceChildren(shown(one));
      });
      return button;
    });
    body.append(shown(evaluations[0]));
    if (buttons.length > 1) place.append(make("div", { class: "switch" }, ...buttons));
    place.append(body);
    return place;
  };

  // Tables of tasks: filter, sort, open.
  const NUMBERS = new Set(["passed", "lines", "branches", "mutants"]);
  for (const section of document.querySelectorAll("section.tasks")) {
    const form = section.querySelector(".filters"), body = section.querySelector(".list > tbody");
    if (!form) continue;
    const rows = [...body.querySelectorAll(".row")];
    const opened = new Map();
    const toggle = (row) => {
      const button = row.querySelector(".name button");
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", open);
      if (open && !opened.has(row)) {
        const cell = make("td", { colspan: row.children.length }, panel(data.rows[Number(row.dataset.details)]));
        opened.set(row, make("tr", { class: "detail" }, cell));
        row.after(opened.get(row));
      }
      if (opened.has(row)) opened.get(row).hidden = !open;
    };
    const filter = () => {
      const wanted = Object.fromEntries(new FormData(form));
      const find = (wanted.find || "").trim().toLowerCase();
      let n = 0;
      for (const row of rows) {
        const fits = row.dataset.task.toLowerCase().includes(find)
          && ["suite", "kind", "change"].every((name) => !wanted[name] || row.dataset[name] === wanted[name]);
        row.hidden = !fits;
        n += fits;
        if (opened.has(row)) opened.get(row).hidden = !fits || row.querySelector(".name button").getAttribute("aria-expanded") !== "true";
      }
      section.querySelector(".shown").textContent = n === rows.length ? `${n} rows` : `${n} of ${rows.length} rows`;
    };
    const sort = (name, down) => {
      const number = NUMBERS.has(name);
      const value = (row) => number ? Number(row.dataset[name]) : row.dataset[name];
      const order = [...rows].sort((a, b) => {
        const one = name ? value(a) : 0, other = name ? value(b) : 0;
        const found = number ? one - other : name ? one.localeCompare(other) : 0;
        return (down ? -found : found) || Number(a.dataset.place) - Number(b.dataset.place);
      });
      for (const row of order) {
        body.append(row);
        if (opened.has(row)) body.append(opened.get(row));
      }
      for (const head of section.querySelectorAll("th[data-sort]")) {
        if (head.dataset.sort === name) head.setAttribute("aria-sort", down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      }
    };
    for (const head of section.querySelectorAll("th[data-sort]")) {
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sort(head.dataset.sort, now ? now === "ascending" : NUMBERS.has(head.dataset.sort));
      });
    }
    for (const row of rows) row.addEventListener("click", () => toggle(row));
    form.addEventListener("input", (event) => {
      if (event.target.name === "sort") sort(event.target.value, NUMBERS.has(event.target.value));
      else filter();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "copied";
    });
  }
  // A link to a run that is folded away opens it.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  window.addEventListener("hashchange", unfold);
  unfold();
  draw();
})();
