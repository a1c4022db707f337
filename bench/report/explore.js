// The explorer on index.html: limits and filters act on its pictures, its tables and the recommendation.
// Python has decided beforehand which settings keep which others from being recommended, and their order. Here
// settings are filtered, and that is looked up for those that are left. Without scripts the page is static.
(function () {
  "use strict";
  const NEEDS = { memory: "memory", time: "training time", size: "file size", parameters: "parameters" };
  const COSTS = Object.keys(NEEDS);
  const UNITS = { memory: "MiB", time: "s", size: "MB" };  // of the costs with a picture
  const LOG_FROM = 12;  // the ratio of values from which scales are logarithmic
  const source = document.getElementById("explorer-data");
  const data = source && JSON.parse(source.textContent);
  const $ = (id) => document.getElementById(id);

  // Elements whose children are elements or text, never markup.
  function el(name, properties, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key in node) { node[key] = value; } else { node.setAttribute(key, value); }
    }
    node.append(...children);
    return node;
  }
  const td = (text) => el("td", { className: "n", textContent: text });
  const th = (scope, text, className = "") => el("th", { scope, textContent: text, className });

  // Numbers as text
  function digits(value) {
    const size = Math.abs(value);
    if (size >= 100) { return Math.round(value).toLocaleString("en-US"); }
    return size >= 10 ? value.toFixed(1) : size >= 1 ? value.toFixed(2) : String(Number(value.toPrecision(3)));
  }
  function minus(text) { return text.replace("-", "\u2212"); }
  function ratio(value) { return value < 0.1 ? value.toPrecision(2) : value.toFixed(2); }
  function signed(value) { return (value > 0 ? "+" : "") + shape.score(value); }
  const shape = {
    memory: (v) => digits(v) + " MiB",
    time: (v) => v < 100 ? v.toFixed(0) + " s" : (v / 60).toFixed(1) + " min",
    size: (v) => digits(v) + " MB",
    parameters: (v) => v >= 1e6 ? Number((v / 1e6).toPrecision(3)) + "M" : Number((v / 1e3).toPrecision(3)) + "k",
    score: (v) => minus(v.toFixed(data.metric.decimals))
  };
  function shown(name, value) { return value === null ? "not measured" : shape[name](value); }
  const timers = {};
  function later(name, delay, action) {
    clearTimeout(timers[name]);
    timers[name] = setTimeout(action, delay);
  }
  function counted(number, thing) { return number.toLocaleString("en-US") + " " + thing + (number === 1 ? "" : "s"); }
  function span(s) {
    return s.score === null ? "not measured" : shape.score(s.score[0]) +
      (s.score[1] === null ? "" : " (" + shape.score(s.score[1]) + " to " + shape.score(s.score[2]) + ")");
  }

  if (data) { explore(); }
  openAnchors();
  if (!data) { cellTable(() => true); }

  // A link to something inside a closed part opens that part.
  function openAnchors() {
    function open() {
      const target = /^#[\w-]+$/.test(location.hash) ? $(location.hash.slice(1)) : null;
      for (let node = target; node; node = node.parentElement) {
        if (node.tagName === "DETAILS") { node.open = true; }
      }
      if (target && target.closest("details")) { target.scrollIntoView(); }
    }
    addEventListener("hashchange", open);
    open();
  }

  // The table of cells, sortable; `passes` decides which rows the filters leave.
  function cellTable(passes) {
    const table = $("cell-table");
    if (!table || typeof Tabulator === "undefined") { return null; }
    const lists = ["mode", "rank", "layers", "amp", "seed", "status", "group"];
    const heads = Array.from(table.tHead.rows[0].cells);
    function number(text) {
      const value = Number(text.replace(/,/g, "").replace("\u2212", "-"));
      return text === "" || isNaN(value) ? null : value;
    }
    // Numbers sort as numbers, and what has none comes last; the shown text is kept beside.
    const rows = Array.from(table.tBodies[0].rows, (row) => {
      const item = { failed: row.className === "failed", keys: {} };
      heads.forEach((head, i) => {
        const text = row.cells[i].textContent;
        item.keys[head.dataset.key] = item["text_" + i] = text;
        item["value_" + i] = head.className === "n" ? number(text) : text;
      });
      return item;
    });
    const columns = heads.map((head, i) => {
      const numeric = head.className === "n", key = head.dataset.key;
      const column = {
        title: head.textContent, field: "value_" + i, sorter: numeric ? "number" : "string",
        sorterParams: { alignEmptyValues: "bottom" }, hozAlign: numeric ? "right" : "left",
        headerTooltip: head.title || false,
        formatter: (cell) => document.createTextNode(cell.getData()["text_" + i])
      };
      if (lists.includes(key)) {
        column.headerFilter = "list";
        column.headerFilterFunc = "=";
        column.headerFilterParams = {
          valuesLookup: true, clearable: true, sort: "asc",
          itemFormatter: (label) => el("span", { textContent: label })  // no markup
        };
      } else if (!numeric) {
        column.headerFilter = "input";
      }
      if (column.headerFilter) {
        column.headerFilterParams = { ...column.headerFilterParams, elementAttributes: { "aria-label": "Filter " + head.textContent } };
      }
      return column;
    });
    // the controls of its pages are no part of the grid, or it would have children that are no rows
    const place = el("div", { id: "cell-grid", "aria-label": "Cells" });
    table.parentNode.replaceWith(place, el("div", { id: "cell-pages" }));
    const grid = window.cellGrid = new Tabulator(place, {
      data: rows, columns: columns, layout: "fitDataFill", pagination: true, paginationSize: 10,
      paginationSizeSelector: [10, 20, 100, 1000], paginationCounter: "rows", footerElement: "#cell-pages",
      columnDefaults: { headerFilterPlaceholder: "filter" }, initialFilter: [{ field: passes }],
      rowFormatter: function (row) { row.getElement().classList.toggle("failed", row.getData().failed); }
    });
    const heading = $("cells").querySelector("h2"), whole = heading.textContent;
    grid.on("dataFiltered", (_, kept) => {
      heading.textContent = kept.length === rows.length ? whole : kept.length + " of " + counted(rows.length, "cell") + " left";
    });
    grid.on("tableBuilt", () => {
      grid.refreshFilter();  // filters may have changed meanwhile
      place.querySelector(".tabulator-tableholder").setAttribute("role", "rowgroup");  // takes the focus, to scroll by keys
      place.querySelector(".tabulator-table").setAttribute("role", "none");
    });
    $("cells-hint").hidden = false;
    return grid;
  }

  function explore() {
    const settings = data.settings, metric = data.metric;
    const gain = metric.higher ? 1 : -1;
    settings.forEach((s, i) => {
      s.index = i;
      s.id = s.cells.length ? s.cells[0][0] : s.label;
      COSTS.forEach((name, c) => { s[name] = s.costs[c]; });
    });
    const scored = settings.filter((s) => s.pair !== null);
    const pairs = data.pairs, axisNames = Object.keys(data.axes);
    const bits = { shown: bytes(pairs.shown), worse: bytes(pairs.worse) };
    const steps = { difference: words(pairs.difference), lower: words(pairs.lower) };
    const ratios = { memory: words(data.ratios.memory), time: words(data.ratios.time) };
    const state = { limits: {}, axes: {}, prefer: "memory", pins: [] };  // limits are numbers as text
    const left = [];
    let passing = [], answer = null, charts = [], hot = null;

    function bytes(text) { return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)); }
    function words(text) { return new Int16Array(bytes(text).buffer); }
    function bit(name, a, b) {
      const at = a.pair * pairs.of + b.pair;
      return (bits[name][at >> 3] >> (7 - at % 8)) & 1;
    }
    // The difference of scores, a minus b, or its lower bound; more is better.
    function apart(name, a, b) {
      const step = steps[name][a.pair * pairs.of + b.pair];
      return step === undefined || step === -32768 ? -Infinity : step * pairs.unit;
    }

    // What Python decided of the settings left: docs/deciding.md explains the rule. A setting is shown to be good
    // enough, or could be, unless another is left that Python says it is not against; of those shown the first in
    // Python's order is recommended, or withdrawn if a training of it collapsed.
    function decide(among) {
      const set = among.filter((s) => s.pair !== null);
      const isShown = new Set(set.filter((i) => set.every((j) => bit("shown", i, j))));
      const could = set.filter((i) => !set.some((j) => bit("worse", i, j)));
      const first = data.order[state.prefer].map((i) => scored[i]).find((s) => isShown.has(s)) || null;
      const best = data.best.map((i) => scored[i]).find((s) => set.includes(s)) || null;
      const decided = first !== null && !first.collapsed;
      return { of: set.length, shown: isShown, could, decided, withdrawn: first ? first.collapsed : "", pick: decided ? first : best };
    }

    function on(name, s) { return name === "score" ? s.value : s[name]; }
    function meets(s, limit) {
      const wanted = Number(state.limits[limit.name]), value = on(limit.name, s);
      return value !== null && (limit.at_most ? value <= wanted : value >= wanted);
    }
    function limits() { return data.limits.filter((limit) => limit.name in state.limits); }
    function where() {
      return limits().map((limit) => limit.name + (limit.at_most ? "<=" : ">=") + state.limits[limit.name] + limit.unit).join(" ");
    }
    function fits(s) {
      return axisNames.every((name, i) => !state.axes[name].size || state.axes[name].has(s.axes[i]));
    }

    // The answer in a sentence, and what else is known of it
    function sentences() {
      const { of, could, pick, decided } = answer, left = "the " + counted(of, "setting") + " left";
      if (!scored.length) { return [data.closed, ""]; }
      if (passing.length === settings.length && !limits().length && state.prefer === "memory") {
        return ["All " + counted(settings.length, "setting") + ": the advice above holds.",
          "Set a limit or choose values, and the answer, pictures and tables follow. Click a mark or a row to pin it; pin two to compare them."];
      }
      if (!of) {
        const fitting = scored.filter(fits);
        if (!fitting.length) { return [settings.some(fits) ? "No setting with these values has a score." : "No setting has these values.", ""]; }
        const nearest = limits().map((limit) => {
          const values = fitting.map((s) => on(limit.name, s)).filter((value) => value !== null);
          if (!values.length) { return "no " + limit.name + " is known"; }
          return (limit.at_most ? "the least " : "the highest ") + limit.name + " is " + shape[limit.name](Math[limit.at_most ? "min" : "max"](...values));
        });
        return ["No setting meets the limits: " + nearest.join(", ") + ".", ""];
      }
      const use = pick.label + ": " + pick.brief + ".";
      if (decided) {
        return ["Use " + use, (of === 1 ? "No other setting is left to compare it with. " : "With 95% confidence it is at most " + metric.margin + " worse than the best of " + left + ". ") + pick.against];
      }
      const open = (could.length === of ? "All " + counted(of, "setting") + " left" : could.length + " of " + left) + " could be within " + metric.margin + " of the best. ";
      return ["Not decided; the best by score so far is " + use, (data.closed || answer.withdrawn ? (data.closed || answer.withdrawn) + " " : open) + pick.against];
    }
    function verdict(s) {
      if (!left[s.index]) { return "filtered out"; }
      if (answer.pick === s) { return answer.decided ? "recommended" : "best by score so far"; }
      if (s.pair === null) { return "no score"; }
      if (answer.shown.has(s)) { return "shown no worse"; }
      return answer.could.includes(s) ? "could be no worse" : "shown worse";
    }
    function says(s) {
      return [s.label, metric.name + " " + span(s)].concat(COSTS.map((name) => data.costs[name] + ": " + shown(name, s[name])), counted(s.seeds, "seed") + (s.learned ? "" : ", not learned"), "click to pin").join("\n");
    }

    // Controls: a slider for each limit, boxes for each axis.
    const sliders = {};
    let moving = null;
    // The slider steps through Python's values, of which each leaves another setting; any can be typed.
    function change(control, name, text) {
      moving = control;
      limit(name, text);
      update();
      moving = null;
    }
    data.limits.forEach((is) => {
      const { name, values } = is, rest = is.at_most ? values.length : 0;
      const title = is.title + (is.at_most ? " \u2264" : " \u2265");
      const input = el("input", { type: "range", min: 0, max: values.length, id: "limit-" + name, value: rest });
      const field = el("input", { type: "number", min: name === "score" ? "" : 0, step: "any", placeholder: "any", id: "limit-" + name + "-value", "aria-label": title + " " + is.unit });
      const step = (value) => is.at_most ? Math.max(0, values.filter((one) => Number(one) <= value).length - 1)
        : Math.min(values.length, values.filter((one) => Number(one) < value).length + 1);
      sliders[name] = { input, field, rest, step };
      input.addEventListener("input", () => {
        const place = Number(input.value);
        change(input, name, place === rest ? "" : values[is.at_most ? place : place - 1]);
      });
      field.addEventListener("input", () => { change(field, name, field.value); });
      $("limits").append(el("div", { className: "slider" },
        el("label", { htmlFor: input.id, textContent: title }), el("span", {}, field, " " + is.unit), input));
    });

    axisNames.forEach((name) => {
      const set = state.axes[name] = new Set();
      const box = el("fieldset", { className: "axis" }, el("legend", { textContent: name }));
      data.axes[name].forEach((value) => {
        const text = value === "none" ? "n/a" : name === "AMP" && value === "off" ? "off (fp32)" : value;
        const input = el("input", { type: "checkbox", value: value, name: "axis-" + name });
        input.addEventListener("change", () => {
          if (input.checked) { set.add(value); } else { set.delete(value); }
          update();
        });
        box.append(el("label", {}, input, el("span", { textContent: text })));
      });
      $("axes").append(box);
    });
    COSTS.forEach((name) => {
      if (settings.some((s) => s[name] !== null)) { $("prefer").append(el("option", { value: name, textContent: NEEDS[name] })); }
    });
    $("cheapest").hidden = !scored.length;
    $("prefer").addEventListener("change", () => { state.prefer = $("prefer").value; update(); });
    $("reset").addEventListener("click", () => {
      axisNames.forEach((name) => { state.axes[name].clear(); });
      state.prefer = "memory";
      state.limits = {};
      update();
    });
    $("copy").addEventListener("click", () => { copy($("command").textContent, $("copy")); });
    document.querySelector(".controls").addEventListener("submit", (event) => { event.preventDefault(); });
    $("csv").addEventListener("click", download);
    $("to-pins").addEventListener("click", () => $("pinned").scrollIntoView({ block: "center" }));

    function limit(name, text) {
      if (text && isFinite(text) && (name === "score" || Number(text) > 0)) { state.limits[name] = text; } else { delete state.limits[name]; }
    }
    function copy(text, button) {
      button.label = button.label || button.textContent;
      function done() {
        button.textContent = "Copied";
        clearTimeout(button.timer);
        button.timer = setTimeout(() => { button.textContent = button.label; }, 1500);
      }
      function select() {
        const area = el("textarea", { value: text });
        document.body.append(area);
        area.select();
        if (document.execCommand("copy")) { done(); }
        area.remove();
        button.focus();
      }
      if (navigator.clipboard) { navigator.clipboard.writeText(text).then(done, select); } else { select(); }
    }

    // Pictures. Plot draws all settings once; later only classes, the front and the marks change.
    function colour(s) {
      const value = (data.modes[s.mode] || ["--ink"])[0];
      return value.startsWith("--") ? "var(" + value + ")" : value;
    }
    function fill(s) { return s.hollow ? "var(--paper)" : colour(s); }
    function symbol(s) { return (data.modes[s.mode] || [0, "wye"])[1]; }
    function draw() {
      const y = scored.length ? "value" : "time";
      const specs = Object.keys(UNITS).filter((x) => x !== y)
        .map((x) => ({ x, y, points: settings.filter((s) => s[x] !== null && s[y] !== null), figure: el("figure", { className: "chart" }) }))
        .filter((spec) => spec.points.length > 1);
      $("charts").replaceChildren(...specs.map((spec) => spec.figure));  // all, before any is measured
      charts = specs.map(drawOne);
    }
    function drawOne({ x, y, points, figure }) {
      const values = points.map((s) => s[x]);
      const low = Math.min(...values), high = Math.max(...values);
      const log = low > 0 && high / low > LOG_FROM, room = log ? Math.pow(high / low, 0.06) : (high - low) * 0.06 || 1;
      const name = y === "value" ? metric.name : data.costs[y];
      const withEnds = points.filter((s) => y === "value" && s.score && s.score[1] !== null);
      const svg = Plot.plot({
        width: Math.max(260, figure.clientWidth), height: 300,
        marginLeft: 44, marginRight: 16, marginTop: 24, marginBottom: 40,
        ariaLabel: name + " against " + data.costs[x],
        ariaDescription: "Every value is in the table of settings below.",
        x: {
          label: data.costs[x] + ", " + UNITS[x] + " \u2192", labelAnchor: "center", labelArrow: "none", grid: true, tickSize: 0,
          type: log ? "log" : "linear", domain: log ? [low / room, high * room] : [Math.max(0, low - room), high + room],
          ticks: 4, tickFormat: log ? String : undefined
        },
        y: {
          label: name + (y === "value" ? "" : ", " + UNITS[y]), labelArrow: "none", grid: true, tickSize: 0,
          nice: true, ticks: 6, reverse: y === "value" && !metric.higher
        },
        marks: [
          Plot.ruleX(withEnds, { x, y1: (s) => s.score[1], y2: (s) => s.score[2], stroke: colour, strokeOpacity: 0.28 }),
          Plot.dot(points, { x, y, r: 4.2, symbol, stroke: colour, strokeWidth: 1.5, fill }),
          Plot.tip(points, Plot.pointer({
            x, y, title: says, fill: "var(--paper)", stroke: "var(--line)",
            textPadding: 9, lineWidth: 30, lineHeight: 1.3, fontSize: 11.5
          }))
        ]
      });
      svg.setAttribute("role", "img");
      for (const part of svg.querySelectorAll("g[aria-label]")) { part.setAttribute("role", "group"); }
      figure.append(svg);
      const front = svgNode("g", { class: "front" }), marks = svgNode("g", { class: "marks" });
      const dots = svg.querySelector("[aria-label=dot]");
      dots.before(front);
      dots.after(marks);
      // Plot gives each element the index of its setting.
      const nodes = new Map(points.map((s) => [s, []]));
      for (const node of dots.children) { nodes.get(points[node.__data__]).push(node); }
      for (const node of svg.querySelectorAll("[aria-label=rule] line")) { nodes.get(withEnds[node.__data__]).push(node); }
      const chart = { svg, x, y, points, nodes, front, marks, sx: svg.scale("x"), sy: svg.scale("y") };
      // A click pins; Plot itself would only keep the tip.
      figure.addEventListener("pointerdown", (event) => { event.stopPropagation(); }, true);
      figure.addEventListener("click", () => { if (svg.value) { pin(svg.value); } });
      return chart;
    }
    function place(chart, s) { return [chart.sx.apply(s[chart.x]), chart.sy.apply(s[chart.y])]; }
    function svgNode(name, attributes) {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      Object.entries(attributes).forEach(([key, value]) => { node.setAttribute(key, value); });
      return node;
    }
    function pareto(chart) {
      if (chart.y !== "value") { return []; }
      let best = -Infinity;
      return chart.points.filter((s) => s.learned && left[s.index])
        .sort((a, b) => a[chart.x] - b[chart.x] || gain * (b.value - a.value))
        .filter((s) => { const better = gain * s.value > best; best = Math.max(best, gain * s.value); return better; });
    }
    function redraw(chart) {
      for (const [s, nodes] of chart.nodes) {
        for (const node of nodes) { node.classList.toggle("out", !left[s.index]); }
      }
      const line = pareto(chart).map((s) => place(chart, s).join(",")).join("L");
      chart.front.replaceChildren(...(line ? [svgNode("path", { d: "M" + line })] : []));
      mark(chart);
    }
    function mark(chart) {
      const nodes = [], taken = [], width = chart.svg.viewBox.baseVal.width;
      function ring(s, kind, text) {
        if (!chart.nodes.has(s)) { return; }
        const [x, y] = place(chart, s), half = 3.8 * text.length;
        nodes.push(svgNode("circle", { class: kind, cx: x, cy: y, r: 8 }));
        const at = [y - 13, y + 21].map((to) => [Math.min(width - half, Math.max(half, x)), to])
          .find((to) => !taken.some((t) => Math.abs(t[0] - to[0]) < half + 30 && Math.abs(t[1] - to[1]) < 12));
        if (!text || !at) { return; }
        taken.push(at, [x, y]);
        const label = svgNode("text", { class: kind, x: at[0], y: at[1], "text-anchor": "middle" });
        label.textContent = text;
        nodes.push(label);
      }
      const decided = answer.decided;
      state.pins.forEach((s, i) => ring(s, "pin", "AB"[i]));
      ring(answer.pick, decided ? "pick" : "pick open", decided ? "recommended" : "best so far");
      ring(settings.find((s) => s.baseline), "base", "");
      ring(hot, "hot", "");
      chart.marks.replaceChildren(...nodes);
    }
    function heat(s) { if (hot !== s) { hot = s; charts.forEach(mark); } }

    // The table of settings: always the same rows, hidden where they are filtered out.
    const heads = Array.from($("settings-heads").cells), body = $("settings-rows");
    let order = settings;
    settings.forEach((s) => {
      const button = el("button", { type: "button", className: "name", "aria-pressed": "false" }, key(s), el("span", { textContent: s.label }));
      button.addEventListener("click", () => {
        const before = s.row.getBoundingClientRect().top;
        pin(s);
        scrollBy({ top: s.row.getBoundingClientRect().top - before, behavior: "instant" });
      });
      button.addEventListener("focus", () => { heat(s); });
      button.addEventListener("blur", () => { heat(null); });
      s.status = el("td", { className: "verdict" });
      s.button = button;
      const cells = { index: el("th", { scope: "row" }, button), value: td(span(s)), seeds: td(s.seeds), verdict: s.status };
      COSTS.forEach((name) => { cells[name] = td(shown(name, s[name])); });
      s.row = el("tr", { className: s.baseline ? "baseline" : "" }, ...heads.map((head) => cells[head.dataset.key]));
      s.row.addEventListener("pointerenter", () => { heat(s); });
      s.row.addEventListener("pointerleave", () => { heat(null); });
      body.append(s.row);
    });
    heads.filter((head) => head.firstElementChild).forEach((head) => {
      head.firstElementChild.addEventListener("click", () => {
        const by = head.dataset.key, before = head.getAttribute("aria-sort");
        const up = before ? before === "descending" : by !== "value" || !metric.higher;
        heads.forEach((one) => { one.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        order = settings.slice().sort((a, b) => {
          const x = a[by], y = b[by];
          if (x === null || y === null) { return (x === null) - (y === null); }
          return up ? x - y : y - x;
        });
        body.append(...order.map((s) => s.row));
      });
    });
    if (scored.length) {
      $("verdicts").textContent = "Shown no worse: at most " + metric.margin + " worse than every other setting left. " +
        "Shown worse: more than that worse than another. Could be no worse: neither is shown.";
    }
    function sign(path, name) {
      const svg = svgNode("svg", { viewBox: "-8 -8 16 16", class: "key", "aria-hidden": "true" });
      svg.append(svgNode("path", { d: path, class: name }));
      return svg;
    }
    function key(s) {
      const shape = d3["symbol" + symbol(s)[0].toUpperCase() + symbol(s).slice(1)];
      const svg = sign(d3.symbol(shape, 70)(), "");
      svg.firstChild.setAttribute("style", "stroke:" + colour(s) + ";fill:" + fill(s));
      return svg;
    }

    Object.keys(data.modes).forEach((mode) => {
      $("legend").append(el("span", {}, key({ mode: mode, hollow: false }), mode));
    });
    if (new Set(settings.map((s) => s.hollow)).size > 1) {
      const some = settings.find((s) => s.hollow);
      $("legend").append(el("span", {}, key(some), "hollow: fp32"));
    }
    if (scored.length) {
      $("legend").append(el("span", {}, sign("M-8 4L-2 0L8 -5", "line"), "Pareto front"));
      $("legend").append(el("span", {}, sign("M0 -8V8", "line"), "95% interval"));
    }
    if (settings.some((s) => s.baseline)) {
      $("legend").append(el("span", {}, sign("M-7 0A7 7 0 1 1 7 0A7 7 0 1 1 -7 0", "dotted"), "full fine-tuning, fp32"));
    }

    // Pins
    function pin(s) {
      state.pins = state.pins.includes(s) ? state.pins.filter((p) => p !== s) : state.pins.concat(s).slice(-2);
      showPins();
      charts.forEach(mark);
      remember();
      announce(state.pins.length ? "Pinned: " + state.pins.map((p) => p.label).join(" and ") + "." : "Nothing is pinned.");
    }
    function showPins() {
      settings.forEach((s) => { s.button.setAttribute("aria-pressed", String(state.pins.includes(s))); });
      const cards = state.pins.map(card), pair = state.pins.length === 2;
      $("pins").replaceChildren(...(pair ? [comparison(...state.pins)] : []), ...cards);
      $("pinned").hidden = $("to-pins").hidden = state.pins.length === 0;
      $("to-pins").textContent = pair ? "2 pinned, compared above" : "1 pinned, above";
    }
    function card(s, i) {
      const close = el("button", { type: "button", className: "close", "aria-label": "Unpin " + s.label, textContent: "\u00d7" });
      close.addEventListener("click", () => {
        pin(s);
        const next = $("pins").querySelector(".close") || (left[s.index] ? s.button : $("csv"));
        next.focus({ preventScroll: true });
      });
      const again = el("button", { type: "button", textContent: "Copy" });
      again.addEventListener("click", () => { copy(s.command, again); });
      const list = el("dl", {});
      if (state.pins.length === 1) {  // two are in the table of the comparison
        for (const [name, value] of [[metric.name, span(s)], ...COSTS.map((name) => [data.costs[name], shown(name, s[name])])]) {
          list.append(el("dt", { textContent: name }), el("dd", { textContent: value }));
        }
      }
      const rows = s.cells.map((cell) => {
        const [id, seed, fold, status, score, memory, time, folder] = cell;
        const found = status === "ok" ? [shown("score", score), shown("memory", memory), shown("time", time)].join(", ") : status;
        return el("li", {}, "seed " + seed + (fold === null ? "" : ", fold " + fold) + ": " + found + " ", el("code", { textContent: folder || id }));
      });
      if (s.more.length) { rows.push(el("li", { textContent: "and " + s.more.length + " more in the table of cells" })); }
      return el("article", { className: "pin" }, close, el("h3", {}, el("b", { textContent: "AB"[i] }), key(s), el("span", { textContent: s.label })), list,
        el("details", { open: state.pins.length === 1 }, el("summary", { textContent: counted(s.cells.length + s.more.length, "cell") }), el("ul", { className: "cells" }, ...rows)),
        el("p", { className: "hint", textContent: "Repeat it:" }), el("div", { className: "command" }, el("code", { textContent: s.command }), again));
    }
    function times(name, a, b) {  // B against A: of memory and time over the seeds and folds that both have
      const step = ratios[name] && ratios[name][a.index * settings.length + b.index];
      if (step === -32768) { return "no seed in common"; }
      return ratio(step === undefined ? b[name] / a[name] : Math.exp(step * data.ratios.unit)) + "\u00d7";
    }
    function comparison(a, b) {
      const items = COSTS.filter((name) => a[name] && b[name]).map((name) => el("tr", {}, th("row", data.costs[name]),
        td(shown(name, a[name])), td(shown(name, b[name])), td(times(name, a, b))));
      let said = "Their scores are not compared.";
      if (a.pair !== null && b.pair !== null) {
        const gap = steps.difference.length ? gain * apart("difference", b, a) : b.value - a.value;
        const ends = [apart("lower", b, a), -apart("lower", a, b)].map((end) => gain * end).sort((x, y) => x - y);
        const bounds = ends.every(isFinite) ? " (" + ends.map(signed).join(" to ") + ")" : "";
        items.unshift(el("tr", {}, th("row", metric.name), td(shape.score(a.value)), td(shape.score(b.value)),
          td(isFinite(gap) ? signed(gap) + bounds : "no seed in common")));
        said = bit("shown", a, b) && bit("shown", b, a) ? "Neither is worse than the other by more than " + metric.margin + "."
          : claim(b, "B", a, "A") + " " + claim(a, "A", b, "B");
        said += (a.seeds === b.seeds ? "" : " The difference is over the seeds that both have.") + " Bounds against the best of all settings hold together with 95% confidence.";
      }
      function claim(i, name, j, other) {
        const how = bit("shown", i, j) ? " is at most " : bit("worse", i, j) ? " is more than " : " may be more than ";
        return name + how + metric.margin + " worse than " + other + ".";
      }
      return el("div", { className: "compare" }, el("h3", { textContent: "Side by side" }),
        el("table", {}, el("thead", {}, el("tr", {}, th("col", ""), th("col", "A", "n"), th("col", "B", "n"), th("col", "B against A", "n"))),
          el("tbody", {}, ...items)),
        el("p", { textContent: said }));
    }

    function download() {
      function field(value) {
        if (typeof value === "number") { return Number.isInteger(value) ? value : Number(value.toPrecision(6)); }
        const text = (/^'*[=+\-@\t\r]/.test(value) ? "'" : "") + (value || "");  // no formula
        return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
      }
      const score = metric.label.replace(/\W+/g, "_");
      const names = ["setting", ...axisNames, score, score + "_from", score + "_to", "memory_mib", "time_s", "size_mb", "parameters", "seeds", "verdict"];
      const rows = order.filter((s) => left[s.index]).map((s) => [s.label, ...s.axes, ...(s.score || [null, null, null]), ...s.costs, s.seeds, verdict(s)]);
      const lines = [names, ...rows].map((row) => row.map(field).join(",") + "\r\n");
      lines.unshift("\ufeff");  // so that spreadsheets read UTF-8
      const link = el("a", { href: URL.createObjectURL(new Blob(lines, { type: "text/csv" })), download: "settings.csv" });
      link.click();
      setTimeout(() => { URL.revokeObjectURL(link.href); }, 1000);
    }

    // The address holds the state.
    function remember() {
      later("address", 200, () => {
        const query = new URLSearchParams();
        limits().forEach(({ name }) => { query.set(name, state.limits[name]); });
        if (state.prefer !== "memory") { query.set("prefer", state.prefer); }
        axisNames.forEach((name) => { state.axes[name].forEach((value) => { query.append("is." + name, value); }); });
        state.pins.forEach((s) => { query.append("pin", s.id); });
        const text = query.toString();
        if (text || location.hash.includes("=")) { history.replaceState(null, "", "#" + text); }
      });
    }
    function recall(hash) {
      const query = new URLSearchParams(hash.includes("=") ? hash.slice(1) : "");
      state.prefer = COSTS.includes(query.get("prefer")) ? query.get("prefer") : "memory";
      axisNames.forEach((name) => {
        state.axes[name].clear();
        query.getAll("is." + name).filter((v) => data.axes[name].includes(v)).forEach((v) => { state.axes[name].add(v); });
      });
      state.pins = query.getAll("pin").map((id) => settings.find((s) => s.id === id)).filter(Boolean).slice(0, 2);
      data.limits.forEach(({ name }) => { limit(name, query.get(name)); });
      update();
      showPins();
    }
    // Only what lasts is read out.
    function announce(text) {
      later("status", 700, () => { if ($("status").textContent !== text) { $("status").textContent = text; } });
    }

    let table = null;
    function update() {
      passing = settings.filter((s) => fits(s) && limits().every((limit) => meets(s, limit)));
      settings.forEach((s) => { left[s.index] = false; });
      passing.forEach((s) => { left[s.index] = true; });
      answer = decide(passing);
      charts.forEach(redraw);
      const [answered, more] = sentences();
      $("answer").textContent = answered;
      $("answer-more").textContent = more;
      $("answer").dataset.decided = answer.decided;
      announce(answered);
      $("command").textContent = data.command + (where() ? ' --where "' + where() + '"' : "") + (state.prefer === "memory" ? "" : " --prefer " + state.prefer);
      $("beyond").hidden = !axisNames.some((name) => state.axes[name].size);
      Object.entries(sliders).forEach(([name, { input, field, rest, step }]) => {
        const text = state.limits[name] || "";
        if (input !== moving) { input.value = text ? step(Number(text)) : rest; }
        if (field !== moving) { field.value = text; }
        input.setAttribute("aria-valuetext", text ? shape[name](Number(text)) : "any");
        field.setAttribute("aria-invalid", String(field.value !== text || field.validity.badInput));
      });
      axisNames.forEach((name) => {
        document.getElementsByName("axis-" + name).forEach((box) => { box.checked = state.axes[name].has(box.value); });
      });
      $("prefer").value = state.prefer;
      $("count").textContent = passing.length + " of " + counted(settings.length, "setting");
      settings.forEach((s) => {
        s.row.hidden = !left[s.index];
        const now = verdict(s);
        if (s.shown !== now) { s.status.textContent = s.shown = now; s.row.classList.toggle("picked", s === answer.pick); }
      });
      later("cells", 120, () => { if (table && table.initialized) { table.refreshFilter(); } });
      remember();
    }

    // Rows of other groups have no setting here: they are left only where nothing is filtered.
    const byCell = new Map();
    settings.forEach((s) => { s.cells.map((cell) => cell[0]).concat(s.more).forEach((id) => { byCell.set(id, s); }); });
    function passesCell(row) {
      if (passing.length === settings.length) { return true; }
      const s = (row.keys.group || "1") === "1" && byCell.get(row.keys.cell_id);
      return Boolean(s) && left[s.index];
    }

    $("explorer").hidden = $("explore-link").hidden = false;
    draw();
    recall(location.hash);
    clearTimeout(timers.status);
    if (location.hash.includes("=")) { $("explorer").scrollIntoView({ behavior: "instant" }); }
    performance.mark("explorer-drawn");
    // The address of the event: until it comes, an older state may be written to that of the page.
    addEventListener("hashchange", (event) => {
      const hash = new URL(event.newURL).hash;
      if (hash.includes("=") || !hash) { recall(hash); } else { remember(); }
    });
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth !== width) { width = innerWidth; draw(); update(); }
    });
    requestAnimationFrame(() => { setTimeout(() => { table = cellTable(passesCell); }); });
  }
})();
