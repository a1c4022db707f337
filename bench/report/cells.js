// Makes the table of cells sortable and filterable; without this it stays a plain table.
(function () {
  "use strict";
  var table = document.getElementById("cell-table");
  if (!table || typeof Tabulator === "undefined") { return; }
  var lists = ["mode", "rank", "layers", "amp", "seed", "status", "group"];
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
  function number(text) {
    var value = Number(text.replace(/,/g, "").replace("\u2212", "-"));
    return text === "" || isNaN(value) ? null : value;
  }
  // Tabulator would take a label as markup.
  function asText(label) {
    var item = document.createElement("span");
    item.textContent = label;
    return item;
  }
  // Numbers sort as numbers, and what has none comes last; the shown text is kept beside.
  var data = Array.prototype.map.call(table.tBodies[0].rows, function (row) {
    var item = { failed: row.className === "failed" };
    heads.forEach(function (head, i) {
      var text = row.cells[i].textContent;
      item["text_" + i] = text;
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
    if (lists.indexOf(key) >= 0) {
      column.headerFilter = "list";
      column.headerFilterFunc = "=";
      column.headerFilterParams = {
        valuesLookup: true, clearable: true, sort: "asc", itemFormatter: asText
      };
    } else if (!numeric) {
      column.headerFilter = "input";
    }
    return column;
  });
  var place = document.createElement("div");
  place.id = "cell-grid";
  table.parentNode.replaceWith(place);
  window.cellGrid = new Tabulator(place, {
    data: data, columns: columns, layout: "fitDataFill", pagination: true, paginationSize: 20,
    paginationSizeSelector: [20, 68, 200, 1000], paginationCounter: "rows",
    columnDefaults: { headerFilterPlaceholder: "filter" },
    rowFormatter: function (row) {
      if (row.getData().failed) { row.getElement().classList.add("failed"); }
    }
  });
})();
