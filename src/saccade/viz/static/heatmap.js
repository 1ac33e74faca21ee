"use strict";
// Shared by the pages: decoding of the payload, rows of attention, drawing, marks and input.
const heatmap = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const made = (node, attributes, text) => {
    Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
    return Object.assign(node, { textContent: text });
  };
  const element = (name, attributes = {}, text = "") => made(document.createElement(name), attributes, text);
  const shape = (name, attributes = {}, text = "") => made(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, text);
  const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));

  // ---- numbers ----
  // IEEE 754 half precision: 1 sign bit, 5 of exponent, 10 of fraction, little-endian.
  const HALF = Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const decoded = new Map();
  const halves = (text) => {
    if (!decoded.has(text)) {
      const raw = bytes(text);
      const view = new DataView(raw.buffer);
      decoded.set(text, Float32Array.from({ length: raw.length / 2 }, (_, i) => HALF[view.getUint16(2 * i, true)]));
    }
    return decoded.get(text);
  };
  const area = ([height, width]) => height * width;
  const cell = (fraction, extent) => Math.min(extent - 1, Math.floor(fraction * extent));
  // One of several packed maps, in its own units.
  const field = ({ shape, unit, low, high }, index) => {
    const grid = shape.slice(-2);
    const values = halves(unit).subarray(index * area(grid), (index + 1) * area(grid));
    return { values: Float64Array.from(values, (v) => low[index] + v * (high[index] - low[index])), grid };
  };

  // The weights from one query to all keys, of one head or, for head = null, the mean over heads.
  const row = ({ how, heads, width, scale, extra = 0, query_shape, key_shape, ...packed }, image, query, head = null) => {
    const [nq, nk] = [area(query_shape), area(key_shape)];
    const chosen = head === null ? Array.from({ length: heads }, (_, h) => h) : [head];
    const mean = new Float64Array(nk);
    if (how === "weights") {
      const weights = halves(packed.weights);
      for (const h of chosen) {
        const start = ((image * heads + h) * nq + query) * nk;
        for (let n = 0; n < nk; n++) mean[n] += weights[start + n] / chosen.length;
      }
      return mean;
    }
    if (how === "windows") {
      const [weights, places] = [halves(packed.weights), packed.places.flat()];
      const from = places.indexOf(query); // window * n + position
      const keys = packed.key_places[Math.floor(from / packed.places[0].length)];
      for (const h of chosen) {
        const start = ((image * heads + h) * places.length + from) * keys.length;
        keys.forEach((key, to) => { if (key >= 0) mean[key] += weights[start + to] / chosen.length; });
      }
      return mean;
    }
    const [queries, keys] = [halves(packed.queries), halves(packed.keys)];
    const values = new Float64Array(nk + extra);
    for (const h of chosen) {
      const q = ((image * heads + h) * nq + query) * width;
      const k = (image * heads + h) * (nk + extra) * width;
      let top = -Infinity;
      for (let n = 0; n < values.length; n++) {
        let value = 0;
        if (how === "rectified sum") value = Math.max(0, queries[q] + keys[k + n]);
        else for (let d = 0; d < width; d++) value += queries[q + d] * keys[k + n * width + d];
        values[n] = scale * value;
        if (values[n] > top) top = values[n];
      }
      let sum = 1;
      if (how === "softmax") {
        sum = 0;
        for (let n = 0; n < values.length; n++) sum += values[n] = Math.exp(values[n] - top);
      }
      for (let n = 0; n < nk; n++) mean[n] += values[n + extra] / (sum * chosen.length);
    }
    return mean;
  };

  // ---- maps of a layer; a position is kept as fractions, so that layers of any size share it ----
  const hasRows = (layer, image) => (layer.pairs?.images ?? 0) > image;
  const gridOf = (layer, image) => (hasRows(layer, image) ? layer.pairs.query_shape : layer.heat.shape.slice(-2));
  const cellOf = (layer, image, position) => gridOf(layer, image).map((extent, axis) => cell(position[axis ? "x" : "y"], extent));
  const mapOf = (layer, image, position, head) => {
    if (position && hasRows(layer, image)) {
      const [y, x] = cellOf(layer, image, position);
      const { query_shape, key_shape } = layer.pairs;
      return { values: row(layer.pairs, image, y * query_shape[1] + x, head), grid: key_shape };
    }
    if (head !== null && layer.heads) return field(layer.heads, image * layer.heads.shape[1] + head);
    return field(layer.heat, image);
  };

  // ---- text ----
  const written = (value, digits = 3) => (value === 0 ? "0" : Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3 ? value.toExponential(digits - 1) : value.toPrecision(digits));
  const headName = (heads, head) => (head !== null ? `head ${head + 1}` : heads === 1 ? "single head" : `mean of ${heads} heads`);
  const describe = (layer, image, position, head) => {
    const { values, grid: [rows, cols] } = mapOf(layer, image, position, head);
    const [y, x] = cellOf(layer, image, position);
    if (!hasRows(layer, image)) return `y=${y}, x=${x} of ${rows} × ${cols}: ${written(values[y * cols + x])}`;
    const top = values.indexOf(values.reduce((a, b) => Math.max(a, b)));
    const mean = values.reduce((a, b) => a + b) / values.length;
    const times = mean > 0 ? `, ${written(values[top] / mean, 2)} times the mean` : "";
    return `y=${y}, x=${x} attends most to y=${Math.floor(top / cols)}, x=${top % cols} of ${rows} × ${cols}: weight ${written(values[top])}${times} (${headName(layer.pairs.heads, head)})`;
  };

  // ---- heat maps in color: smooth ones interpolate between the centers of cells ----
  const settings = { cmap: Object.keys(data.colors)[0], smooth: true, marks: true };
  const palettes = Object.fromEntries(Object.entries(data.colors).map(([name, hex]) => [name, Array.from({ length: 256 }, (_, i) => [0, 2, 4].map((c) => parseInt(hex.slice(6 * i + c, 6 * i + c + 2), 16)))]));
  const paint = (canvas, { values, grid: [rows, cols] }, side) => {
    const scale = settings.smooth ? Math.max(1, side / Math.max(rows, cols)) : 1;
    const [height, width] = [Math.round(rows * scale), Math.round(cols * scale)];
    const along = (length, extent) => Array.from({ length }, (_, i) => {
      const at = Math.min(extent - 1, Math.max(0, ((i + 0.5) * extent) / length - 0.5));
      const first = Math.min(Math.max(0, extent - 2), Math.floor(at));
      return [first, Math.min(extent - 1, first + 1), at - first];
    });
    const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const [span, colors, picture] = [high - low || 1, palettes[settings.cmap], new ImageData(width, height)];
    const across = along(width, cols);
    let p = 0;
    for (const [top, bottom, v] of along(height, rows)) {
      for (const [left, right, u] of across) {
        const above = values[top * cols + left] * (1 - u) + values[top * cols + right] * u;
        const below = values[bottom * cols + left] * (1 - u) + values[bottom * cols + right] * u;
        picture.data.set(colors[Math.round((255 * (above * (1 - v) + below * v - low)) / span)], p);
        picture.data[p + 3] = 255;
        p += 4;
      }
    }
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").putImageData(picture, 0, 0);
    return [low, high];
  };

  // ---- marks: sampling grid, fixations, selected position, outline ----
  const marks = (svg, [width, height], { layer, image, position, outline = "", predicted = "" }) => {
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const twice = (path, kind) => ["under", "over"].forEach((half) => svg.append(shape("path", { d: path, class: `${kind} ${half}` })));
    const line = (points) => "M" + points.map(([x, y]) => `${(x * width).toFixed(1)} ${(y * height).toFixed(1)}`).join("L");
    if (outline) twice(outline, "outline");
    if (predicted) twice(predicted, "predicted");
    const { grid, fixations, extents, sinks, outliers } = (settings.marks && layer) || {};
    if (grid) twice(grid[image].flat().map(line).join(""), "thin");
    if (sinks) sinks[image].forEach(([x, y]) => svg.append(shape("circle", { cx: x * width, cy: y * height, r: 7, class: "sink" })));
    if (outliers) outliers[image].forEach(([x, y]) => svg.append(shape("rect", { x: x * width - 9, y: y * height - 9, width: 18, height: 18, class: "sink" })));
    if (fixations) {
      const points = fixations[image];
      const footprints = extents.flatMap(([high, wide]) => points.map(([x, y]) => [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]].map(([dx, dy]) => [x + (dx * wide) / 2, y + (dy * high) / 2])));
      twice(footprints.map(line).join(""), "thin");
      twice(line(points), "line");
      points.forEach(([x, y], i) => {
        const [cx, cy] = [x * width, y * height];
        svg.append(shape("circle", { cx, cy, r: 10 }), shape("text", { x: cx, y: cy }, i + 1));
      });
    }
    if (!position) return;
    const [[rows, cols], [y, x]] = [gridOf(layer, image), cellOf(layer, image, position)];
    const [h, w] = [height / rows, width / cols];
    const [cy, cx] = [(y + 0.5) * h, (x + 0.5) * w];
    const r = Math.max(7, Math.min(h, w) / 2);
    twice(`M${cx - r} ${cy}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0M${cx - r} ${cy}h-7M${cx + r} ${cy}h7M${cx} ${cy - r}v-7M${cx} ${cy + r}v7`, "line");
  };

  // ---- input: select a position by pointer or arrow keys ----
  const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Enter: [0, 0], " ": [0, 0] };
  // `current` returns the layer, the image and the selected position or null.
  const selectable = (target, current, select) => {
    const point = (event) => {
      const box = target.getBoundingClientRect();
      const inside = (fraction) => Math.min(0.999999, Math.max(0, fraction));
      select({ y: inside((event.clientY - box.top) / box.height), x: inside((event.clientX - box.left) / box.width) });
    };
    target.addEventListener("click", point);
    target.addEventListener("pointermove", (event) => event.buttons === 1 && event.pointerType === "mouse" && point(event));
    target.addEventListener("keydown", (event) => {
      const move = MOVES[event.key];
      if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const { layer, image, position } = current();
      const grid = gridOf(layer, image);
      const start = position ? cellOf(layer, image, position) : grid.map((extent) => extent >> 1);
      const step = position ? (event.shiftKey ? 4 : 1) : 0;
      const [y, x] = grid.map((extent, axis) => (Math.min(extent - 1, Math.max(0, start[axis] + step * move[axis])) + 0.5) / extent);
      select({ y, x });
    });
  };
  const onReset = (reset) => {
    one("[data-reset]")?.addEventListener("click", reset);
    document.addEventListener("keydown", (event) => event.key === "Escape" && reset());
  };
  const control = (name, event, change) => one(`[data-control="${name}"]`)?.addEventListener(event, (e) => change(e.target));
  const status = (text, resettable) => {
    one("[data-state]").textContent = text;
    one("[data-reset]").disabled = !resettable;
  };
  // `repaint` draws maps and marks; `remark` draws marks alone.
  const controls = (repaint, remark) => {
    const root = document.documentElement;
    const scale = () => {
      const stops = palettes[settings.cmap].filter((_, i) => i % 15 === 0).map((color) => `rgb(${color})`);
      all(".scale i").forEach((bar) => (bar.style.background = `linear-gradient(90deg, ${stops})`));
    };
    control("alpha", "input", (input) => root.style.setProperty("--alpha", input.value / 100));
    control("cmap", "change", (select) => { settings.cmap = select.value; scale(); repaint(); });
    control("smooth", "change", (box) => { settings.smooth = box.checked; root.classList.toggle("blocky", !box.checked); repaint(); });
    control("marks", "change", (box) => { settings.marks = box.checked; remark(); });
    scale();
  };
  const ready = (pictures, start) => Promise.all(pictures.map((picture) => picture.decode())).then(() => {
    start();
    document.documentElement.dataset.ready = "true";
  });

  return { data, all, one, element, shape, press, status, bytes, halves, field, row, hasRows, mapOf, written, headName, describe, paint, marks, selectable, onReset, control, controls, ready };
})();
