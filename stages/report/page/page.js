"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const percent = (share) => (100 * share).toFixed(1) + " %";

  // Theme: as the system, light or dark; kept where the browser allows it.
  const themes = ["as the system", "light", "dark"];
  const themeButton = document.getElementById("theme");
  const useTheme = (theme) => {
    if (theme === themes[0]) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    themeButton.textContent = "Theme: " + theme;
  };
  let theme = themes[0];
  try { theme = localStorage.getItem("semiseg-theme") || theme; } catch { /* a page without storage */ }
  useTheme(themes.includes(theme) ? theme : themes[0]);
  themeButton.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    useTheme(theme);
    try { localStorage.setItem("semiseg-theme", theme); } catch { /* a page without storage */ }
  });

  // A link to something folded opens it.
  const openTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", openTarget);
  if (location.hash) openTarget();

  // The navigation shows which part is read.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  all(".part").forEach((part) => watcher.observe(part));

  // Images, enlarged: the arrow keys go through those of the row.
  const viewer = document.getElementById("viewer");
  const big = make("img", { alt: "" });
  const words = make("p");
  const button = (text, label, action) => {
    const made = make("button", { type: "button", textContent: text, ariaLabel: label });
    made.addEventListener("click", action);
    return made;
  };
  let row = [], place = 0;
  const show = (index) => {
    place = (index + row.length) % row.length;
    const image = row[place];
    big.src = image.src;
    big.alt = image.alt;
    big.className = image.src.startsWith("data:image/png") ? "crisp" : "";
    words.textContent = image.alt;
  };
  viewer.append(big, make("div", { className: "viewer-bar" }, words,
    button("‹", "Previous image", () => show(place - 1)), button("›", "Next image", () => show(place + 1)),
    button("Close", "Close", () => viewer.close())));
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(place - 1);
    if (event.key === "ArrowRight") show(place + 1);
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  document.addEventListener("click", (event) => {
    const clicked = event.target.closest(".enlarge");
    if (!clicked) return;
    row = all("img", clicked.closest(".tiles"));
    show(row.indexOf(clicked.querySelector("img")));
    viewer.showModal();
  });

  // Curves: the legend hides and marks trainings; the pointer reads values.
  const lines = (number) => all(`polyline[data-series="${number}"]`);
  const mark = (number) => all(".lines").forEach((group) => {
    group.classList.toggle("some", number !== null);
    all("polyline", group).forEach((line) => line.classList.toggle("on", line.dataset.series === number));
  });
  for (const entry of all(".legend button")) {
    const number = entry.dataset.series;
    entry.addEventListener("click", () => {
      const shown = entry.getAttribute("aria-pressed") !== "true";
      entry.setAttribute("aria-pressed", String(shown));
      lines(number).forEach((line) => line.toggleAttribute("hidden", !shown));
    });
    for (const begin of ["pointerenter", "focus"]) entry.addEventListener(begin, () => mark(number));
    for (const end of ["pointerleave", "blur"]) entry.addEventListener(end, () => mark(null));
  }
  for (const chart of all("svg.curves")) {
    const readout = chart.parentElement.querySelector(".readout");
    const box = chart.viewBox.baseVal;
    const { left, right, top, bottom } = { left: 48, right: 10, top: 10, bottom: 26 };
    const value = (y) => {
      const share = (box.height - bottom - y) / (box.height - top - bottom);
      const [low, high] = [Number(chart.dataset.low), Number(chart.dataset.high)];
      return "log" in chart.dataset ? low * (high / low) ** share : low + share * (high - low);
    };
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cursor.setAttribute("class", "cursor");
    chart.addEventListener("pointermove", (event) => {
      const bounds = chart.getBoundingClientRect();
      const x = (event.clientX - bounds.left) / bounds.width * box.width;
      const y = (event.clientY - bounds.top) / bounds.height * box.height;
      let best = null;
      for (const line of all("polyline:not([hidden])", chart)) {
        for (const point of line.points) {
          const far = Math.abs(point.x - x) * 4 + Math.abs(point.y - y);
          if (!best || far < best.far) best = { far, point, line };
        }
      }
      if (!best) return;
      const step = Math.round((best.point.x - left) / (box.width - left - right) * Number(chart.dataset.steps));
      const name = best.line.querySelector("title").textContent.split(":")[0];
      readout.textContent = `${name}: ${value(best.point.y).toPrecision(3)} after ${step.toLocaleString("en")} steps`;
      for (const [key, at] of [["x1", best.point.x], ["x2", best.point.x], ["y1", top], ["y2", box.height - bottom]])
        cursor.setAttribute(key, at);
      chart.append(cursor);
    });
    chart.addEventListener("pointerleave", () => { cursor.remove(); readout.textContent = ""; });
  }

  // Confusion matrices are drawn when their evaluation is opened.
  const heatMap = (holder) => {
    const { classes, counts } = JSON.parse(holder.querySelector("script").textContent);
    const columns = [...classes, "no answer"].slice(0, counts.some((line) => line.at(-1)) ? undefined : -1);
    const reading = make("p", { className: "reading", ariaLive: "polite", textContent: "Point at a cell for its counts." });
    const table = make("table", { className: classes.length > 40 ? "heat many" : "heat" });
    const head = make("tr", {}, make("td"));
    for (const name of columns) head.append(make("th", { scope: "col", textContent: name }));
    table.append(make("thead", {}, head));
    const body = make("tbody");
    classes.forEach((name, r) => {
      const total = counts[r].reduce((sum, count) => sum + count, 0);
      const line = make("tr", {}, make("th", { scope: "row", className: "label", textContent: name }));
      columns.forEach((predicted, c) => {
        const share = total ? counts[r][c] / total : 0;
        const cell = make("td", { tabIndex: -1, textContent: share >= 0.005 ? Math.round(100 * share) : "" });
        const strong = Math.round(100 * Math.sqrt(share));
        cell.style.background = `color-mix(in srgb, var(${r === c ? "--right" : "--wrong"}) ${strong}%, var(--soft))`;
        cell.dataset.words = `${name} taken for ${predicted}: ${counts[r][c].toLocaleString("en")} pixels, `
          + `${percent(share)} of ${name}`;
        cell.ariaLabel = cell.dataset.words;
        line.append(cell);
      });
      body.append(line);
    });
    table.append(body);
    const cells = all("tbody td", table);
    if (cells.length) cells[0].tabIndex = 0;
    const read = (event) => { if (event.target.dataset.words) reading.textContent = event.target.dataset.words; };
    table.addEventListener("pointerover", read);
    table.addEventListener("focusin", read);
    table.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns.length, ArrowDown: columns.length };
      const next = cells[cells.indexOf(event.target) + moves[event.key]];
      if (!next) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    const plain = make("table", {}, make("thead", {}, make("tr", {}, make("th", { className: "label", scope: "col", textContent: "truth" }),
      ...columns.map((name) => make("th", { scope: "col", textContent: name })))));
    const lists = make("tbody");
    classes.forEach((name, r) => lists.append(make("tr", {}, make("th", { className: "label", scope: "row", textContent: name }),
      ...columns.map((_, c) => make("td", { textContent: counts[r][c].toLocaleString("en") })))));
    plain.append(lists);
    const scroll = (inner, label) => {
      const box = make("div", { className: "scroll", tabIndex: 0, ariaLabel: label }, inner);
      box.setAttribute("role", "region");
      return box;
    };
    holder.append(scroll(table, `Confusion matrix of ${holder.closest("details").querySelector(".name").textContent}`), reading, make("details", {},
      make("summary", { textContent: "Counts as a table" }), scroll(plain, "Counts of this confusion matrix")));
  };
  const everyImage = (holder) => {
    const body = make("tbody");
    for (const [name, share] of JSON.parse(holder.querySelector("script").textContent)) {
      body.append(make("tr", {}, make("th", { className: "label", scope: "row", textContent: name }),
        make("td", { textContent: share === null ? "-" : share.toFixed(1) })));
    }
    const head = make("tr", {}, make("th", { className: "label", scope: "col", textContent: "image" }),
      make("th", { scope: "col", textContent: "mean IoU, %" }));
    holder.append(make("div", { className: "rows", tabIndex: 0, role: "region", ariaLabel: "Mean IoU of each image" }, make("table", {}, make("thead", {}, head), body)));
  };
  const once = (details, holder, draw) => {
    const open = () => {
      if (!details.open || holder.dataset.drawn) return;
      holder.dataset.drawn = "yes";
      draw(holder);
    };
    details.addEventListener("toggle", open);
    open();
  };
  all(".confusion").forEach((holder) => once(holder.closest("details"), holder, heatMap));
  all(".every-image").forEach((holder) => once(holder, holder, everyImage));

  // Commands are copied by a button.
  for (const copy of all(".copy")) {
    copy.addEventListener("click", async () => {
      const text = copy.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(text.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
  }
})();
