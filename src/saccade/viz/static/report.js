"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  // ---- leaderboard: sort by a column; absent values stay last ----
  const value = (row, column) => {
    const text = row.children[column].dataset.value;
    return text === undefined || text === "" ? null : isNaN(text) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
  const board = one(".board");
  all("thead button", board).forEach((button, column, buttons) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const opposite = { ascending: "descending", descending: "ascending" };
      const order = opposite[head.ariaSort] ?? button.dataset.first;
      buttons.forEach((other) => other.closest("th").setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", order);
      const rows = all("tbody tr", board).sort((one, two) => {
        const [a, b] = [value(one, column), value(two, column)];
        if (a === null || b === null) return (a === null) - (b === null);
        return order === "ascending" ? compare(a, b) : compare(b, a);
      });
      one("tbody", board).append(...rows);
    });
  });

  // ---- charts: hide attentions, read values off the curves, choose the cost ----
  const off = new Set();
  all("[data-toggle]").forEach((button) => {
    button.addEventListener("click", () => {
      const attention = button.dataset.toggle;
      off.has(attention) ? off.delete(attention) : off.add(attention);
      button.setAttribute("aria-pressed", String(!off.has(attention)));
      all(`.chart svg [data-attention="${attention}"]`).forEach((mark) => mark.classList.toggle("off", off.has(attention)));
    });
  });
  all("[data-chart]").forEach((figure) => {
    const chart = data.curves[figure.dataset.chart];
    const [svg, rule, readout] = [one("svg", figure), one(".rule", figure), one(".readout", figure)];
    const places = [...new Set(chart.lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    const hide = () => { readout.hidden = true; rule.setAttribute("visibility", "hidden"); };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const width = svg.viewBox.baseVal.width;
      const pointer = ((event.clientX - box.left) / box.width) * width;
      const nearest = places.reduce((a, b) => (Math.abs(b - pointer) < Math.abs(a - pointer) ? b : a));
      const rows = chart.lines
        .filter((line) => !off.has(String(line.attention)))
        .map((line) => [line.attention, line.points.find((point) => point[0] === nearest)])
        .filter(([, point]) => point)
        .sort(([, a], [, b]) => b[2] - a[2]);
      if (!rows.length) return hide();
      rule.setAttribute("visibility", "visible");
      rule.setAttribute("x1", nearest);
      rule.setAttribute("x2", nearest);
      const title = document.createElement("small");
      title.textContent = `epoch ${chart.epochs[places.indexOf(nearest)]}`;
      readout.replaceChildren(title, ...rows.map(([attention, point]) => {
        const [row, swatch, name, number] = ["div", "i", "span", "b"].map((tag) => document.createElement(tag));
        row.className = one(`[data-toggle="${attention}"]`).className;
        swatch.className = "swatch";
        name.textContent = data.labels[attention];
        number.textContent = chart.unit ? point[2].toFixed(2) + chart.unit : point[2].toPrecision(3);
        row.append(swatch, name, number);
        return row;
      }));
      readout.hidden = false;
      const at = (nearest / width) * box.width;
      const right = at > box.width / 2;
      readout.style.left = right ? "auto" : `${at + 28}px`;
      readout.style.right = right ? `${box.width - at + 28}px` : "auto";
    });
  });
  one("[data-scatter]").addEventListener("change", (event) => {
    all("[data-axis]").forEach((svg) => svg.toggleAttribute("hidden", svg.dataset.axis !== event.target.value));
  });

  // ---- gallery ----
  const ready = () => (document.documentElement.dataset.ready = "true");
  if (!data.gallery) {
    ready();
    return;
  }
  const { columns, masks } = data.gallery;
  const SIDE = 384; // pixels of a canvas along its longer side; its map is computed at half of that
  const MAPS = {
    inferno: ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"],
    viridis: ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"],
    gray: ["000000", "ffffff"],
  };
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  // IEEE 754 half precision: 1 sign bit, 5 of exponent, 10 of fraction, little-endian.
  const halves = (text) => {
    const raw = bytes(text);
    const view = new DataView(raw.buffer);
    return Float32Array.from({ length: raw.length / 2 }, (_, i) => {
      const bits = view.getUint16(2 * i, true);
      const sign = bits & 0x8000 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 31) return fraction ? NaN : sign * Infinity;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
    });
  };
  for (const { heat, factors } of columns) {
    if (heat) heat.values = bytes(heat.bytes);
    if (factors) {
      [factors.queries, factors.keys] = [halves(factors.queries), halves(factors.keys)];
      factors.received = new Map();
    }
  }
  const bits = masks && bytes(masks.bits);
  const inMask = (image, y, x) => {
    const [height, width] = masks.shape;
    if (y < 0 || x < 0 || y >= height || x >= width) return false;
    const index = (image * height + y) * width + x;
    return Boolean(bits[index >> 3] & (128 >> (index & 7)));
  };

  // softmax(scale * q . k) of one query, for one head or the mean over heads (head = null).
  const area = ([height, width]) => height * width;
  const weights = (column, image, query, head = null) => {
    const { queries, keys, heads, width, scale, query_shape, key_shape } = columns[column].factors;
    const [nq, nk] = [area(query_shape), area(key_shape)];
    const chosen = head === null ? Array.from({ length: heads }, (_, h) => h) : [head];
    const mean = new Float64Array(nk);
    const row = new Float64Array(nk);
    for (const h of chosen) {
      const q = ((image * heads + h) * nq + query) * width;
      const k = (image * heads + h) * nk * width;
      let top = -Infinity;
      for (let n = 0; n < nk; n++) {
        let dot = 0;
        for (let d = 0; d < width; d++) dot += queries[q + d] * keys[k + n * width + d];
        row[n] = scale * dot;
        if (row[n] > top) top = row[n];
      }
      let sum = 0;
      for (let n = 0; n < nk; n++) sum += row[n] = Math.exp(row[n] - top);
      for (let n = 0; n < nk; n++) mean[n] += row[n] / (sum * chosen.length);
    }
    return mean;
  };
  const received = (column, image, head) => {
    const { factors } = columns[column];
    const key = `${image} ${head}`;
    if (!factors.received.has(key)) {
      const total = new Float64Array(area(factors.key_shape));
      for (let query = 0; query < area(factors.query_shape); query++) {
        weights(column, image, query, head).forEach((weight, n) => (total[n] += weight));
      }
      factors.received.set(key, total);
    }
    return factors.received.get(key);
  };

  // What the page shows now. `query` is a place of one image as fractions, so that columns share it.
  const state = { opacity: 0.6, colors: "inferno", outline: true, filter: "all", query: null, column: null, head: columns.map(() => null) };

  const asked = (column, image) =>
    state.query?.image === image && columns[column].factors?.images > image;
  const cell = (fraction, extent) => Math.min(extent - 1, Math.floor(fraction * extent));
  const queryOf = (column) => {
    const [height, width] = columns[column].factors.query_shape;
    return [cell(state.query.y, height), cell(state.query.x, width)];
  };
  const heatOf = (column, image) => {
    const { heat, factors } = columns[column];
    const head = state.head[column];
    if (asked(column, image)) {
      const [y, x] = queryOf(column);
      return [weights(column, image, y * factors.query_shape[1] + x, head), factors.key_shape];
    }
    if (factors?.images > image && head !== null) return [received(column, image, head), factors.key_shape];
    const size = area(heat.shape);
    return [heat.values.subarray(image * size, (image + 1) * size), heat.shape];
  };

  const palette = () => {
    const stops = MAPS[state.colors].map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
    return Array.from({ length: 256 }, (_, level) => {
      const at = (level / 255) * (stops.length - 1);
      const low = Math.min(stops.length - 2, Math.floor(at));
      return stops[low].map((c, i) => c + (stops[low + 1][i] - c) * (at - low));
    });
  };

  // Draw values as colors, interpolated between the centers of their cells.
  const overlay = (values, [rows, cols], width, height, colors) => {
    const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const span = high - low || 1;
    const picture = new ImageData(width, height);
    const along = (length, extent) => Array.from({ length }, (_, i) => {
      const at = Math.min(extent - 1, Math.max(0, ((i + 0.5) * extent) / length - 0.5));
      const first = Math.min(Math.max(0, extent - 2), Math.floor(at));
      return [first, Math.min(extent - 1, first + 1), at - first];
    });
    const [down, across] = [along(height, rows), along(width, cols)];
    let p = 0;
    for (const [top, bottom, v] of down) {
      for (const [left, right, u] of across) {
        const above = values[top * cols + left] * (1 - u) + values[top * cols + right] * u;
        const below = values[bottom * cols + left] * (1 - u) + values[bottom * cols + right] * u;
        const color = colors[Math.round((255 * (above * (1 - v) + below * v - low)) / span)];
        picture.data.set(color, p);
        picture.data[p + 3] = 255;
        p += 4;
      }
    }
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(picture, 0, 0);
    return canvas;
  };

  const outlines = new Map();
  const outline = (image, width, height) => {
    if (!outlines.has(image)) {
      const path = new Path2D();
      const [rows, cols] = masks.shape;
      const [sy, sx] = [height / rows, width / cols];
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < cols; x++) {
          if (!inMask(image, y, x)) continue;
          const edges = [[y - 1, x, x, y, x + 1, y], [y + 1, x, x, y + 1, x + 1, y + 1], [y, x - 1, x, y, x, y + 1], [y, x + 1, x + 1, y, x + 1, y + 1]];
          for (const [ny, nx, ax, ay, bx, by] of edges) {
            if (inMask(image, ny, nx)) continue;
            path.moveTo(ax * sx, ay * sy);
            path.lineTo(bx * sx, by * sy);
          }
        }
      }
      outlines.set(image, path);
    }
    return outlines.get(image);
  };
  const twice = (context, path, width) => {
    for (const [color, extra] of [["#000b", 3], ["#fff", 0]]) {
      context.strokeStyle = color;
      context.lineWidth = width + extra;
      context.lineCap = "round";
      context.stroke(path);
    }
  };

  const canvases = all(".shots canvas").map((canvas) => {
    const item = canvas.closest("li");
    const picture = one("img", item);
    const [width, height] = ["width", "height"].map((side) => Number(picture.getAttribute(side)));
    canvas.width = 2 * Math.round((SIDE / 2) * Math.min(1, width / height));
    canvas.height = 2 * Math.round((SIDE / 2) * Math.min(1, height / width));
    return { canvas, picture, column: Number(canvas.dataset.column), image: Number(item.dataset.image), cached: null };
  });
  const draw = (tile, colors) => {
    const { canvas, picture, column, image } = tile;
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.globalAlpha = 1;
    context.drawImage(picture, 0, 0, width, height);
    if (columns[column].heat) {
      if (colors) tile.cached = overlay(...heatOf(column, image), width / 2, height / 2, colors);
      context.globalAlpha = state.opacity;
      context.drawImage(tile.cached, 0, 0, width, height);
      context.globalAlpha = 1;
    }
    if (masks && state.outline) twice(context, outline(image, width, height), 2.5);
    if (asked(column, image)) {
      const [rows, cols] = columns[column].factors.query_shape;
      const [y, x] = queryOf(column);
      const marker = new Path2D();
      const [cx, cy] = [((x + 0.5) * width) / cols, ((y + 0.5) * height) / rows];
      marker.arc(cx, cy, 11, 0, 2 * Math.PI);
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        marker.moveTo(cx + 11 * dx, cy + 11 * dy);
        marker.lineTo(cx + 19 * dx, cy + 19 * dy);
      }
      twice(context, marker, 3.5);
    }
  };
  const redraw = (which = () => true, maps = true) => {
    const colors = maps && palette();
    canvases.filter(which).forEach((tile) => draw(tile, colors));
  };
  const scale = () => {
    const bar = one(".scale i");
    if (bar) bar.style.background = `linear-gradient(90deg, ${MAPS[state.colors].map((hex) => "#" + hex)})`;
  };

  // ---- asking a pixel where it looks ----
  const heads = (column) => {
    const head = state.head[column];
    const { heads } = columns[column].factors;
    return heads === 1 ? "its one head" : head === null ? `mean of ${heads} heads` : `head ${head}`;
  };
  const describe = (column) => {
    if (!state.query) {
      const chosen = columns.flatMap(({ name }, c) => (state.head[c] === null ? [] : [`${name}: ${heads(c)}`]));
      return `Maps show the mean attention that each place receives${chosen.length ? ` (${chosen.join(", ")})` : ""}.`;
    }
    const { image } = state.query;
    const [values, [rows, cols]] = heatOf(column, image);
    const [y, x] = queryOf(column);
    const top = values.indexOf(Math.max(...values));
    let text = `Image ${image + 1}, ${columns[column].name}: y=${y}, x=${x} looks most at y=${Math.floor(top / cols)}, x=${top % cols} of ${rows} × ${cols}, weight ${values[top].toFixed(3)} (${heads(column)})`;
    const share = onTarget(image, values, rows, cols);
    if (share !== null) text += `; ${(100 * share).toFixed(0)}% of its weight is on the target`;
    return text + ".";
  };
  const onTarget = (image, values, rows, cols) => {
    if (!masks) return null;
    const [height, width] = masks.shape;
    let [share, any] = [0, false];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!inMask(image, y, x)) continue;
        any = true;
        share += values[Math.floor((y * rows) / height) * cols + Math.floor((x * cols) / width)] * ((rows * cols) / (height * width));
      }
    }
    return any ? share : null;
  };
  const live = one("[data-state]");
  const reset = one("[data-reset]");
  const ask = (query, column = null) => {
    const rows = new Set([state.query?.image, query?.image]);
    state.query = query;
    state.column = column;
    live.textContent = describe(column);
    reset.disabled = !query;
    redraw((tile) => rows.has(tile.image) && columns[tile.column].factors);
  };
  for (const { canvas, column, image } of canvases.filter(({ canvas }) => canvas.tabIndex === 0)) {
    const [rows, cols] = columns[column].factors.query_shape;
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const inside = (fraction) => Math.min(0.999999, Math.max(0, fraction));
      ask({ image, y: inside((event.clientY - box.top) / box.height), x: inside((event.clientX - box.left) / box.width) }, column);
    };
    canvas.addEventListener("click", point);
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons === 1 && event.pointerType === "mouse") point(event);
    });
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Enter: [0, 0], " ": [0, 0] };
    canvas.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const here = state.query?.image === image;
      const [y, x] = here ? queryOf(column) : [rows >> 1, cols >> 1];
      const step = here ? (event.shiftKey ? 4 : 1) : 0;
      const to = (at, by, extent) => (Math.min(extent - 1, Math.max(0, at + step * by)) + 0.5) / extent;
      ask({ image, y: to(y, move[0], rows), x: to(x, move[1], cols) }, column);
    });
  }
  if (reset) {
    reset.addEventListener("click", () => ask(null));
    document.addEventListener("keydown", (event) => event.key === "Escape" && state.query && ask(null));
  }

  // ---- controls ----
  all("[data-head]").forEach((select) => {
    select.addEventListener("change", () => {
      const column = Number(select.dataset.head);
      state.head[column] = select.value === "" ? null : Number(select.value);
      live.textContent = describe(state.column);
      redraw((tile) => tile.column === column);
    });
  });
  const control = (name, event, change) => one(`[data-control="${name}"]`)?.addEventListener(event, (e) => change(e.target));
  control("opacity", "input", (input) => { state.opacity = input.value / 100; redraw(undefined, false); });
  control("colors", "change", (select) => { state.colors = select.value; scale(); redraw(); });
  control("outline", "change", (box) => { state.outline = box.checked; redraw(undefined, false); });
  all("[data-filter]").forEach((button, _, buttons) => {
    button.addEventListener("click", () => {
      state.filter = button.dataset.filter;
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      const keep = { all: () => true, wrong: (item) => item.dataset.wrong === "true" }[state.filter] ?? ((item) => item.dataset.target === state.filter);
      const items = all(".shots > li");
      items.forEach((item) => (item.hidden = !keep(item)));
      one("[data-empty]").hidden = items.some((item) => !item.hidden);
    });
  });

  window.saccade = { state, weights, columns };
  scale();
  Promise.all(all(".shots img").map((picture) => picture.decode())).then(() => {
    redraw();
    ready();
  });
})();
