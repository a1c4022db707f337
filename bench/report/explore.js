// The explorer: filters, pictures, tables and the recommendation of index.html.
// Python calculated everything beforehand; here settings are filtered, and among those that are
// left the rule of bench.analysis.recommendation picks one. Without scripts the page is static.
(function () {
  "use strict";
  var COSTS = ["memory", "time", "size", "parameters"];
  var AXES_X = ["memory", "time", "size"];
  var STEPS = 200, LOG_FROM = 12;
  var source = document.getElementById("explorer-data");
  var data = source && JSON.parse(source.textContent);
  var $ = function (id) { return document.getElementById(id); };

  // Elements whose children are elements or text, never markup.
  function el(name, properties) {
    var node = document.createElement(name);
    Object.entries(properties || {}).forEach(function ([key, value]) {
      if (key in node && key !== "list") { node[key] = value; } else { node.setAttribute(key, value); }
    });
    node.append(...Array.prototype.slice.call(arguments, 2).filter(function (x) { return x !== null; }));
    return node;
  }

  // Numbers as text
  function digits(value) {
    var size = Math.abs(value);
    if (size >= 100) { return Math.round(value).toLocaleString("en-US"); }
    return size >= 10 ? value.toFixed(1) : size >= 1 ? value.toFixed(2) : String(Number(value.toPrecision(3)));
  }
  function minus(text) { return text.replace("-", "\u2212"); }
  var shape = {
    memory: function (v) { return v >= 10240 ? digits(v / 1024) + " GiB" : digits(v) + " MiB"; },
    time: function (v) { return v >= 5400 ? digits(v / 3600) + " h" : v >= 90 ? digits(v / 60) + " min" : digits(v) + " s"; },
    size: function (v) { return v >= 1000 ? digits(v / 1000) + " GB" : v < 0.1 ? digits(v * 1000) + " kB" : digits(v) + " MB"; },
    parameters: function (v) { return v >= 1e6 ? digits(v / 1e6) + " M" : v >= 1e4 ? digits(v / 1e3) + " k" : digits(v); },
    score: function (v) { return minus(v.toFixed(data.metric.decimals)); }
  };
  function shown(name, value) { return value === null ? "not measured" : shape[name](value); }
  function counted(number, thing) { return number.toLocaleString("en-US") + " " + thing + (number === 1 ? "" : "s"); }
  function span(s) {
    return s.score === null ? "not measured" : shape.score(s.score[0]) +
      (s.score[1] === null ? "" : " (" + shape.score(s.score[1]) + " to " + shape.score(s.score[2]) + ")");
  }

  if (data) { explore(); }
  openAnchors();
  if (!data) { cellTable(function () { return true; }); }

  // A link to something inside a closed part opens that part.
  function openAnchors() {
    function open() {
      var target = location.hash.includes("=") ? null : $(decodeURIComponent(location.hash.slice(1)));
      for (var node = target; node; node = node.parentElement) {
        if (node.tagName === "DETAILS") { node.open = true; }
      }
      if (target && target.closest("details")) { target.scrollIntoView(); }
    }
    addEventListener("hashchange", open);
    open();
  }

  // The table of cells, sortable; `passes` tells which rows the filters leave.
  function cellTable(passes) {
    var table = $("cell-table");
    if (!table || typeof Tabulator === "undefined") { return null; }
    var lists = ["mode", "rank", "layers", "amp", "seed", "status", "group"];
    var heads = Array.from(table.tHead.rows[0].cells);
    function number(text) {
      var value = Number(text.replace(/,/g, "").replace("\u2212", "-"));
      return text === "" || isNaN(value) ? null : value;
    }
    // Numbers sort as numbers, and what has none comes last; the shown text is kept beside.
    var rows = Array.from(table.tBodies[0].rows, function (row) {
      var item = { failed: row.className === "failed", keys: {} };
      heads.forEach(function (head, i) {
        var text = row.cells[i].textContent;
        item.keys[head.dataset.key] = item["text_" + i] = text;
        item["value_" + i] = head.className === "n" ? number(text) : text;
      });
      return item;
    });
    var columns = heads.map(function (head, i) {
      var numeric = head.className === "n", key = head.dataset.key;
      var column = {
        title: head.textContent, field: "value_" + i, sorter: numeric ? "number" : "string",
        sorterParams: { alignEmptyValues: "bottom" }, hozAlign: numeric ? "right" : "left",
        headerTooltip: head.title || false,
        formatter: function (cell) { return document.createTextNode(cell.getData()["text_" + i]); }
      };
      if (lists.includes(key)) {
        column.headerFilter = "list";
        column.headerFilterFunc = "=";
        column.headerFilterParams = {
          valuesLookup: true, clearable: true, sort: "asc",
          itemFormatter: function (label) { return el("span", { textContent: label }); }  // no markup
        };
      } else if (!numeric) {
        column.headerFilter = "input";
      }
      return column;
    });
    var place = el("div", { id: "cell-grid" });
    table.parentNode.replaceWith(place);
    return (window.cellGrid = new Tabulator(place, {
      data: rows, columns: columns, layout: "fitDataFill", pagination: true, paginationSize: 10,
      paginationSizeSelector: [10, 20, 100, 1000], paginationCounter: "rows",
      columnDefaults: { headerFilterPlaceholder: "filter" }, initialFilter: [{ field: passes }],
      rowFormatter: function (row) { row.getElement().classList.toggle("failed", row.getData().failed); }
    }));
  }

  function explore() {
    var settings = data.settings, metric = data.metric;
    var gain = metric.higher ? 1 : -1;
    settings.forEach(function (s, i) {
      s.index = i;
      s.id = s.cells.length ? s.cells[0][0] : s.label;
      COSTS.forEach(function (name, c) { s[name] = s.costs[c]; });
      s.value = s.score === null ? null : s.score[0];
    });
    var scored = settings.filter(function (s) { return s.value !== null; });
    var pairs = data.pairs, axisNames = Object.keys(data.axes);
    var bits = { shown: bytes(pairs.shown), worse: bytes(pairs.worse) };
    var state = { where: "", limits: [], axes: {}, prefer: "memory", pins: [] };
    var left = [], passing = [], answer = null, charts = [], hot = null;

    function bytes(text) { return Uint8Array.from(atob(text), function (c) { return c.charCodeAt(0); }); }
    function bit(name, a, b) {
      var at = a.pair * pairs.of + b.pair;
      return (bits[name][at >> 3] >> (7 - at % 8)) & 1;
    }

    // The rule. docs/deciding.md explains it; Python made the bits.
    function recommend(among) {
      var set = among.filter(function (s) { return s.pair !== null; });
      function all(i, test) { return set.every(function (j) { return i === j || test(i, j); }); }
      var isShown = set.filter(function (i) { return all(i, function (i, j) { return bit("shown", i, j); }); });
      var could = set.filter(function (i) { return all(i, function (i, j) { return !bit("worse", i, j); }); });
      var best = set.reduce(function (a, b) { return a && gain * a.value >= gain * b.value ? a : b; }, null);
      var pick = cheapest(isShown.length ? isShown : could);
      return { of: set.length, shown: isShown, could: could, best: best, pick: pick, decided: isShown.length > 0 && !data.closed };
    }
    function cheapest(of) {
      function cost(s, name) { return s[name] === null ? Infinity : s[name]; }
      return of.reduce(function (a, b) {
        if (a === null) { return b; }
        var first = [state.prefer, "time", "parameters"].find(function (name) { return cost(a, name) !== cost(b, name); });
        return first && cost(b, first) < cost(a, first) ? b : a;
      }, null);
    }

    // Limits have the syntax and units of --where.
    function parse(text) {
      var term = new RegExp(data.term, "y"), limits = [], rest = text.trim();
      while (rest) {
        term.lastIndex = 0;
        var match = term.exec(rest);
        var units = match && data.units[match[1]];
        if (!match || !units || !(match[4] in units) || isNaN(Number(match[3])) ||
            (match[2] === ">=" && match[1] !== "score")) {
          return { limits: limits, error: "“" + rest.split(/\s/)[0] + "” is not a limit such as memory<=6GiB, time<=30min, score>=0.60" };
        }
        limits.push({ name: match[1], atMost: match[2] === "<=", value: Number(match[3]) * units[match[4]], text: match[0].trim() });
        rest = rest.slice(match[0].length).trim();
      }
      return { limits: limits, error: "" };
    }
    function shortfall(limit, s) {
      var value = limit.name === "score" ? s.value : s[limit.name];
      if (value === null) { return Infinity; }
      var excess = limit.atMost ? value - limit.value : limit.value - value;
      return Math.max(0, excess) / Math.max(Math.abs(limit.value), 1e-12);
    }
    function meets(s) { return state.limits.every(function (limit) { return shortfall(limit, s) === 0; }); }
    function fits(s) {
      return axisNames.every(function (name, i) {
        var chosen = state.axes[name];
        return !chosen || !chosen.size || chosen.has(s.axes[i]);
      });
    }

    // Sentences
    function figures(s) {
      return shown("memory", s.memory) + ", " + shown("time", s.time) + ", " + metric.label + " " + (s.value === null ? "not measured" : shape.score(s.value));
    }
    function sentence() {
      var filtered = state.limits.length > 0 || passing.length < settings.length;
      if (!filtered && state.prefer === "memory" && data.answer) { return data.answer; }
      if (!answer.of) {
        var fitting = scored.filter(fits);
        if (!fitting.length) { return "No setting has these values."; }
        var near = fitting.reduce(function (a, b) { return worst(b) < worst(a) ? b : a; });
        return "No setting meets these limits; nearest is " + near.label + ": " + figures(near) + ".";
      }
      var whose = "the " + counted(answer.of, "setting") + (filtered ? " that " + (answer.of === 1 ? "meets" : "meet") + " the limits" : "");
      if (data.closed) { return data.closed + " Cheapest of " + whose + ": " + answer.pick.label + ": " + figures(answer.pick) + "."; }
      if (answer.decided) {
        return answer.pick.label + ": " + figures(answer.pick) + "; " + (answer.of === 1
          ? "the only setting that meets the limits."
          : "shown no worse than the best of " + whose + " by more than " + metric.margin + ".");
      }
      return "Undecided: " + answer.could.length + " of " + whose + " could be the answer; provisional pick " +
        answer.pick.label + ": " + figures(answer.pick) + ".";
    }
    function worst(s) {
      return Math.max.apply(null, state.limits.map(function (limit) { return shortfall(limit, s); }));
    }
    function standing(s) {
      if (!passing.includes(s)) { return "filtered out"; }
      if (answer.pick === s) { return answer.decided ? "recommended" : "provisional pick"; }
      if (s.pair === null) { return s.value === null ? "no score" : "not compared"; }
      if (answer.shown.includes(s)) { return "shown no worse"; }
      return answer.could.includes(s) ? "could be the answer" : "shown worse";
    }
    function says(s) {
      return [s.label, metric.name + " " + span(s)].concat(COSTS.map(function (name) {
        return data.costs[name] + ": " + shown(name, s[name]);
      }), [counted(s.seeds, "seed") + (s.learned ? "" : ", not learned"), standing(s)]).join("\n");
    }

    // Controls: a slider for each limit, boxes for each axis.
    var sliders = {};
    COSTS.slice(0, 3).concat("score").forEach(function (name) {
      var values = settings.map(function (s) { return name === "score" ? s.value : s[name]; })
        .filter(function (v) { return v !== null; });
      var low = Math.min.apply(null, values), high = Math.max.apply(null, values);
      if (!(high > low)) { return; }
      var log = name !== "score" && low > 0 && high / low > LOG_FROM;
      var isFloor = name === "score" && metric.higher;
      var input = el("input", { type: "range", min: 0, max: STEPS, id: "limit-" + name, value: isFloor ? 0 : STEPS });
      var output = el("output", { htmlFor: "limit-" + name, textContent: "any" });
      var title = name === "score" ? metric.name : data.costs[name];
      var slider = sliders[name] = {
        input: input, output: output, rest: isFloor ? 0 : STEPS, isFloor: isFloor,
        at: function (step) {
          var part = step / STEPS;
          return log ? low * Math.pow(high / low, part) : low + (high - low) * part;
        },
        step: function (value) {
          var part = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
          return Math.round(STEPS * Math.min(1, Math.max(0, part)));
        }
      };
      input.addEventListener("input", function () {
        var others = state.limits.filter(function (limit) { return limit.name !== name; });
        var step = Number(input.value);
        var term = step === slider.rest ? [] : [limitText(name, isFloor, slider.at(step))];
        setWhere(others.map(function (limit) { return limit.text; }).concat(term).join(" "));
      });
      $("limits").append(el("div", { className: "slider" },
        el("label", { htmlFor: input.id, textContent: title }), output, input));
    });
    // Rounded away from what is excluded, so that a limit at a setting's value keeps the setting.
    function limitText(name, isFloor, value) {
      if (name === "score") {
        var unit = Math.pow(10, metric.decimals), round = isFloor ? Math.floor : Math.ceil;
        return "score" + (isFloor ? ">=" : "<=") + (round(value * unit) / unit).toFixed(metric.decimals);
      }
      var best = Object.entries({ memory: { MiB: 1, GiB: 1024 }, time: { s: 1, min: 60, h: 3600 }, size: { kB: 0.001, MB: 1, GB: 1000 } }[name])
        .filter(function ([, size]) { return value >= (size > 1 ? 3 : 1) * size; }).pop() || ["kB", 0.001];
      var number = value / best[1], scale = Math.pow(10, Math.max(0, 2 - Math.floor(Math.log10(number))));
      return name + "<=" + Number((Math.ceil(number * scale) / scale).toPrecision(12)) + best[0];
    }

    axisNames.forEach(function (name) {
      var set = state.axes[name] = new Set();
      var box = el("fieldset", { className: "axis" }, el("legend", { textContent: name }));
      data.axes[name].forEach(function (value) {
        var text = value === "none" ? "none" : name === "AMP" && value === "off" ? "off (fp32)" : value;
        var input = el("input", { type: "checkbox", value: value, name: "axis-" + name });
        input.addEventListener("change", function () {
          if (input.checked) { set.add(value); } else { set.delete(value); }
          update();
        });
        box.append(el("label", {}, input, el("span", { textContent: text })));
      });
      $("axes").append(box);
    });
    COSTS.forEach(function (name) {
      if (settings.some(function (s) { return s[name] !== null; })) { $("prefer").append(el("option", { value: name, textContent: data.costs[name] })); }
    });
    $("prefer").addEventListener("change", function () { state.prefer = $("prefer").value; update(); });
    $("where").addEventListener("input", function () { setWhere($("where").value, true); });
    $("reset").addEventListener("click", function () {
      axisNames.forEach(function (name) { state.axes[name].clear(); });
      state.prefer = "memory";
      setWhere("");
    });
    $("copy").addEventListener("click", function () { copy($("command").textContent, $("copy")); });
    $("csv").addEventListener("click", download);

    function setWhere(text, typed) {
      var parsed = parse(text);
      state.limits = parsed.limits;
      state.where = parsed.limits.map(function (limit) { return limit.text; }).join(" ");
      $("where-error").textContent = parsed.error;
      $("where").setAttribute("aria-invalid", String(parsed.error !== ""));
      if (!typed) { $("where").value = text; }
      update();
    }
    function copy(text, button) {
      var before = button.textContent;
      function done() { button.textContent = "Copied"; setTimeout(function () { button.textContent = before; }, 1500); }
      if (navigator.clipboard) { navigator.clipboard.writeText(text).then(done, function () {}); return; }
      var area = el("textarea", { value: text });
      document.body.append(area);
      area.select();
      if (document.execCommand("copy")) { done(); }
      area.remove();
    }

    // Pictures. Plot draws all settings once; later only classes, the front and the marks change.
    function colour(s) {
      var value = (data.modes[s.mode] || ["--ink"])[0];
      return value.startsWith("--") ? "var(" + value + ")" : value;
    }
    function symbol(s) { return (data.modes[s.mode] || [0, "wye"])[1]; }
    function draw() {
      charts.forEach(function (chart) { chart.figure.remove(); });
      var y = scored.length ? "value" : "time";
      charts = AXES_X.filter(function (x) { return x !== y; }).map(function (x) {
        var points = settings.filter(function (s) { return s[x] !== null && s[y] !== null; });
        return points.length < 2 ? null : drawOne(x, y, points);
      }).filter(Boolean);
    }
    function drawOne(x, y, points) {
      var figure = el("figure", { className: "chart" });
      $("charts").append(figure);
      var values = points.map(function (s) { return s[x]; });
      var low = Math.min.apply(null, values), high = Math.max.apply(null, values);
      var log = low > 0 && high / low > LOG_FROM;
      var name = y === "value" ? metric.name : data.costs[y];
      var unit = { memory: "MiB", time: "s", size: "MB" };
      var title = function (s) { return says(s); };
      var svg = Plot.plot({
        width: Math.max(260, figure.clientWidth), height: 300, marginLeft: 44, marginRight: 16, marginTop: 24, marginBottom: 40,
        ariaLabel: name + " against " + data.costs[x],
        ariaDescription: "Every value is in the table of settings below.",
        x: { label: data.costs[x] + ", " + unit[x] + " \u2192", labelAnchor: "center", labelArrow: "none", type: log ? "log" : "linear", grid: true, nice: true, ticks: log ? 4 : 5, tickFormat: log ? digits : undefined, tickSize: 0 },
        y: { label: name + (y === "value" ? "" : ", " + unit[y]), labelArrow: "none", grid: true, nice: true, ticks: 6, tickSize: 0, reverse: y === "value" && !metric.higher },
        marks: [
          y === "value" ? Plot.ruleX(points.filter(function (s) { return s.score[1] !== null; }), {
            x: x, y1: function (s) { return s.score[1]; }, y2: function (s) { return s.score[2]; },
            stroke: colour, strokeOpacity: 0.28
          }) : null,
          Plot.dot(points, { x: x, y: y, r: 4.2, symbol: symbol, stroke: colour, strokeWidth: 1.5,
            fill: function (s) { return s.hollow ? "var(--paper)" : colour(s); } }),
          Plot.tip(points, Plot.pointer({ x: x, y: y, title: title, fill: "var(--paper)", stroke: "var(--line)", textPadding: 9, lineWidth: 30 }))
        ]
      });
      figure.append(svg);
      var groups = Array.from(svg.children);
      var dots = groups.find(function (g) { return g.getAttribute("aria-label") === "dot"; });
      var rules = groups.find(function (g) { return g.getAttribute("aria-label") === "rule"; });
      var make = function (name, of, before) {
        var node = document.createElementNS(svg.namespaceURI, "g");
        node.setAttribute("class", name);
        of.insertBefore(node, before || null);
        return node;
      };
      var chart = {
        figure: figure, svg: svg, x: x, y: y, points: points, sx: svg.scale("x"), sy: svg.scale("y"),
        nodes: points.map(function () { return []; }),
        front: make("front", svg, dots), marks: make("marks", svg, dots.nextSibling)
      };
      var withEnds = points.filter(function (s) { return s.score && s.score[1] !== null; });
      Array.from(dots.children).forEach(function (node) { chart.nodes[node.__data__].push(node); });
      if (rules) {
        Array.from(rules.children).forEach(function (node) { chart.nodes[points.indexOf(withEnds[node.__data__])].push(node); });
      }
      // A click pins; Plot itself would only keep the tip.
      figure.addEventListener("pointerdown", function (event) { event.stopPropagation(); }, true);
      figure.addEventListener("click", function () { if (svg.value) { pin(svg.value); } });
      return chart;
    }
    function place(chart, s) { return [chart.sx.apply(s[chart.x]), chart.sy.apply(s[chart.y])]; }
    function svgNode(name, attributes) {
      var node = document.createElementNS("http://www.w3.org/2000/svg", name);
      Object.entries(attributes).forEach(function ([key, value]) { node.setAttribute(key, value); });
      return node;
    }
    function pareto(chart) {
      if (chart.y !== "value") { return []; }
      var best = -Infinity;
      return chart.points.filter(function (s) { return s.learned && left[s.index]; })
        .sort(function (a, b) { return a[chart.x] - b[chart.x] || gain * (b.value - a.value); })
        .filter(function (s) { var better = gain * s.value > best; best = Math.max(best, gain * s.value); return better; });
    }
    function redraw(chart) {
      chart.points.forEach(function (s, i) {
        if (chart.nodes[i].out === !left[s.index]) { return; }
        chart.nodes[i].out = !left[s.index];
        chart.nodes[i].forEach(function (node) { node.classList.toggle("out", !left[s.index]); });
      });
      var line = pareto(chart).map(function (s) { return place(chart, s).join(","); }).join("L");
      chart.front.replaceChildren(...(line ? [svgNode("path", { d: "M" + line })] : []));
      mark(chart);
    }
    function mark(chart) {
      var nodes = [], taken = [], width = chart.svg.viewBox.baseVal.width;
      function ring(s, kind, text, side) {
        if (!s || !chart.points.includes(s)) { return; }
        var [x, y] = place(chart, s);
        nodes.push(svgNode("circle", { class: kind, cx: x, cy: y, r: kind === "hot" ? 9 : 8 }));
        if (!text || taken.some(function (t) { return Math.abs(t[0] - x) < 90 && Math.abs(t[1] - y - side) < 12; })) { return; }
        var end = x > width / 2;
        var label = svgNode("text", { class: kind, x: x + (end ? -11 : 11), y: y + side, "text-anchor": end ? "end" : "start" });
        label.textContent = text;
        taken.push([x, y + side]);
        nodes.push(label);
      }
      ring(answer && answer.of ? answer.pick : null, answer && answer.decided ? "pick" : "pick open", answer && answer.pick ? answer.pick.label : "", -10);
      state.pins.forEach(function (s, i) { ring(s, "pin", "AB"[i], 4); });
      ring(settings.find(function (s) { return s.baseline; }), "base", "full, fp32", 16);
      ring(hot, "hot", "", 0);
      chart.marks.replaceChildren(...nodes);
    }
    function heat(s) { hot = s; charts.forEach(mark); }

    // The table of settings, the same rows always, hidden where filtered out.
    var columns = [["score", function (s) { return s.value; }]].concat(COSTS.map(function (name) { return [name, function (s) { return s[name]; }]; }),
      [["seeds", function (s) { return s.seeds; }]]);
    var sorting = { by: -1, up: true };
    var body = $("settings-rows");
    settings.forEach(function (s) {
      var button = el("button", { type: "button", className: "name", "aria-pressed": "false" }, key(s), el("span", { textContent: s.label }));
      button.addEventListener("click", function () { pin(s); });
      button.addEventListener("focus", function () { heat(s); });
      button.addEventListener("blur", function () { heat(null); });
      s.status = el("td", { className: "standing" });
      s.button = button;
      s.row = el("tr", { className: s.baseline ? "baseline" : "" }, el("th", { scope: "row" }, button), el("td", { className: "n", textContent: span(s) }),
        ...COSTS.map(function (name) { return el("td", { className: "n", textContent: shown(name, s[name]) }); }),
        el("td", { className: "n", textContent: s.seeds }), s.status);
      s.row.addEventListener("pointerenter", function () { heat(s); });
      s.row.addEventListener("pointerleave", function () { heat(null); });
      body.append(s.row);
    });
    $("settings-heads").querySelectorAll("button").forEach(function (button, i) {
      button.addEventListener("click", function () {
        sorting = { by: i - 1, up: sorting.by === i - 1 ? !sorting.up : i !== 1 || !metric.higher };
        $("settings-heads").querySelectorAll("th").forEach(function (th) { th.removeAttribute("aria-sort"); });
        button.parentNode.setAttribute("aria-sort", sorting.up ? "ascending" : "descending");
        var value = i === 0 ? function (s) { return s.index; } : columns[i - 1][1];
        var order = settings.slice().sort(function (a, b) {
          var x = value(a), y = value(b);
          if (x === null || y === null) { return (x === null) - (y === null); }
          return sorting.up ? x - y : y - x;
        });
        body.append(...order.map(function (s) { return s.row; }));
      });
    });
    function key(s) {
      var svg = svgNode("svg", { viewBox: "-8 -8 16 16", class: "key", "aria-hidden": "true" });
      var shapes = { square: d3.symbolSquare, diamond: d3.symbolDiamond, circle: d3.symbolCircle, triangle: d3.symbolTriangle, star: d3.symbolStar, wye: d3.symbolWye };
      svg.append(svgNode("path", { d: d3.symbol(shapes[symbol(s)], 70)(), style: "stroke:" + colour(s) + ";fill:" + (s.hollow ? "var(--paper)" : colour(s)) }));
      return svg;
    }

    // Pins
    function pin(s) {
      state.pins = state.pins.includes(s) ? state.pins.filter(function (p) { return p !== s; }) : state.pins.concat(s).slice(-2);
      showPins();
      charts.forEach(mark);
      remember();
    }
    function showPins() {
      settings.forEach(function (s) { s.button.setAttribute("aria-pressed", String(state.pins.includes(s))); });
      $("pins").replaceChildren(...state.pins.map(card), ...(state.pins.length === 2 ? [comparison(...state.pins)] : []));
      $("pinned").hidden = state.pins.length === 0;
    }
    function card(s, i) {
      var close = el("button", { type: "button", className: "close", "aria-label": "Unpin " + s.label, textContent: "\u00d7" });
      close.addEventListener("click", function () { pin(s); });
      var again = el("button", { type: "button", textContent: "Copy" });
      again.addEventListener("click", function () { copy(s.command, again); });
      var facts = [[metric.name, span(s)]].concat(COSTS.map(function (name) { return [data.costs[name], shown(name, s[name])]; }));
      var list = el("dl", {});
      facts.forEach(function ([name, value]) { list.append(el("dt", { textContent: name }), el("dd", { textContent: value })); });
      var rows = s.cells.map(function (cell) {
        var [id, seed, fold, status, score, memory, time, folder] = cell;
        return el("li", {}, el("span", { textContent: "seed " + seed + (fold === null ? "" : ", fold " + fold) + ": " + (status === "ok" ? "" : status + " ") +
          [score === null ? null : shape.score(score), memory === null ? null : shape.memory(memory), time === null ? null : shape.time(time)].filter(Boolean).join(", ") + " " }),
          el("code", { textContent: folder || id }));
      });
      if (s.more.length) { rows.push(el("li", { textContent: "and " + s.more.length + " more in the table of cells" })); }
      return el("article", { className: "pin" }, close, el("h4", {}, el("b", { textContent: "AB"[i] }), key(s), el("span", { textContent: s.label })), list,
        el("details", { open: state.pins.length === 1 }, el("summary", { textContent: counted(s.cells.length + s.more.length, "cell") }), el("ul", { className: "cells" }, ...rows)),
        el("p", { className: "hint", textContent: "Repeat it:" }), el("div", { className: "command" }, el("code", { textContent: s.command }), again));
    }
    function comparison(a, b) {
      var items = COSTS.filter(function (name) { return a[name] && b[name]; }).map(function (name) {
        return el("tr", {}, el("th", { scope: "row", textContent: data.costs[name] }), el("td", { className: "n", textContent: shown(name, a[name]) }),
          el("td", { className: "n", textContent: shown(name, b[name]) }), el("td", { className: "n", textContent: digits(b[name] / a[name]) + "\u00d7" }));
      });
      if (a.value !== null && b.value !== null) {
        var gap = b.value - a.value;
        items.unshift(el("tr", {}, el("th", { scope: "row", textContent: metric.name }), el("td", { className: "n", textContent: shape.score(a.value) }),
          el("td", { className: "n", textContent: shape.score(b.value) }), el("td", { className: "n", textContent: (gap > 0 ? "+" : "") + shape.score(gap) })));
      }
      var said = a.pair === null || b.pair === null ? "Their scores are not compared." : [[b, "B", a, "A"], [a, "A", b, "B"]].map(function ([i, name, j, other]) {
        if (bit("shown", i, j)) { return name + " is shown no worse than " + other + " by more than " + metric.margin + "."; }
        return bit("worse", i, j) ? name + " is shown worse than " + other + " by more than " + metric.margin + "."
          : name + " is not shown to be no worse than " + other + ".";
      }).join(" ");
      return el("div", { className: "compare" }, el("h4", { textContent: "Side by side" }),
        el("div", { className: "scroll", tabIndex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }),
          ...["A", "B", "B against A"].map(function (text) { return el("th", { scope: "col", className: "n", textContent: text }); }))), el("tbody", {}, ...items))),
        el("p", { textContent: said }));
    }

    function download() {
      function field(value) {
        var text = value === null ? "" : String(value);
        if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) { text = "'" + text; }  // no formula
        return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
      }
      var heads = ["setting", ...axisNames, metric.label, "from", "to", "memory_mib", "time_s", "size_mb", "parameters", "seeds", "standing"];
      var lines = [heads].concat(passing.map(function (s) {
        return [s.label, ...s.axes, ...(s.score || [null, null, null]), ...s.costs, s.seeds, standing(s)];
      })).map(function (line) { return line.map(field).join(",") + "\r\n"; });
      var link = el("a", { href: URL.createObjectURL(new Blob(lines, { type: "text/csv" })), download: "settings.csv" });
      link.click();
      setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
    }

    // The address holds the state.
    var waiting = 0;
    function remember() {
      clearTimeout(waiting);
      waiting = setTimeout(function () {
        var query = new URLSearchParams();
        if (state.where) { query.set("where", state.where); }
        if (state.prefer !== "memory") { query.set("prefer", state.prefer); }
        axisNames.forEach(function (name) { state.axes[name].forEach(function (value) { query.append("is." + name, value); }); });
        state.pins.forEach(function (s) { query.append("pin", s.id); });
        var text = query.toString();
        if (text || location.hash.includes("=")) { history.replaceState(null, "", "#" + text); }
      }, 200);
    }
    function recall() {
      var query = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
      state.prefer = COSTS.includes(query.get("prefer")) ? query.get("prefer") : "memory";
      axisNames.forEach(function (name) {
        state.axes[name].clear();
        query.getAll("is." + name).filter(function (v) { return data.axes[name].includes(v); }).forEach(function (v) { state.axes[name].add(v); });
      });
      state.pins = query.getAll("pin").map(function (id) { return settings.find(function (s) { return s.id === id; }); }).filter(Boolean).slice(0, 2);
      setWhere(query.get("where") || "");
      showPins();
    }

    var table = null, later = 0, spoken = 0;
    function update() {
      passing = settings.filter(function (s) { return fits(s) && meets(s); });
      settings.forEach(function (s) { left[s.index] = false; });
      passing.forEach(function (s) { left[s.index] = true; });
      answer = recommend(passing);
      charts.forEach(redraw);
      var text = sentence();
      if ($("answer").textContent !== text) { $("answer").textContent = text; }
      $("answer").dataset.decided = answer.decided;
      $("command").textContent = data.command + (state.where ? ' --where "' + state.where + '"' : "") + (state.prefer === "memory" ? "" : " --prefer " + state.prefer);
      $("beyond").hidden = !axisNames.some(function (name) { return state.axes[name].size; });
      Object.entries(sliders).forEach(function ([name, slider]) {
        var limit = state.limits.filter(function (l) { return l.name === name && l.atMost !== slider.isFloor; }).pop();
        if (limit === undefined || slider.input !== document.activeElement) { slider.input.value = limit ? slider.step(limit.value) : slider.rest; }
        slider.output.textContent = limit ? (slider.isFloor ? "\u2265 " : "\u2264 ") + shape[name](limit.value) : "any";
        slider.input.setAttribute("aria-valuetext", slider.output.textContent);
      });
      axisNames.forEach(function (name) {
        document.getElementsByName("axis-" + name).forEach(function (box) { box.checked = state.axes[name].has(box.value); });
      });
      $("prefer").value = state.prefer;
      $("count").textContent = passing.length + " of " + counted(settings.length, "setting");
      settings.forEach(function (s) {
        if (s.row.hidden === left[s.index]) { s.row.hidden = !left[s.index]; }
        var now = standing(s);
        if (s.said !== now) { s.status.textContent = s.said = now; s.row.classList.toggle("picked", s === answer.pick); }
      });
      clearTimeout(later);
      later = setTimeout(function () { if (table) { table.refreshFilter(); } }, 120);
      remember();
    }

    // Rows of other groups have no setting here: they are left only where nothing is filtered.
    var byCell = new Map();
    settings.forEach(function (s) { s.cells.map(function (cell) { return cell[0]; }).concat(s.more).forEach(function (id) { byCell.set(id, s); }); });
    function passesCell(row) {
      if (passing.length === settings.length) { return true; }
      var s = (row.keys.group || "1") === "1" && byCell.get(row.keys.cell_id);
      return Boolean(s) && left[s.index];
    }

    $("explorer").hidden = false;
    draw();
    recall();
    performance.mark("explorer-drawn");
    addEventListener("hashchange", function () { if (location.hash.includes("=") || !location.hash) { recall(); } });
    var width = innerWidth;
    addEventListener("resize", function () {
      if (innerWidth !== width) { width = innerWidth; draw(); update(); }
    });
    requestAnimationFrame(function () { setTimeout(function () { table = cellTable(passesCell); }); });
  }
})();
