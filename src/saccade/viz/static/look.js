"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);
  const { layers, images } = data;

  // ---- numbers ----
  // IEEE 754 half precision: 1 sign bit, 5 of exponent, 10 of fraction, little-endian.
  const HALF = Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  });
  const decoded = new Map();
  const halves = (text) => {
    if (!decoded.has(text)) {
      const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const view = new DataView(raw.buffer);
      decoded.set(text, Float32Array.from({ length: raw.length / 2 }, (_, i) => HALF[view.getUint16(2 * i, true)]));
    }
    return decoded.get(text);
  };
  const area = ([height, width]) => height * width;
  // One map of many, in its own units.
  const field = ({ shape, unit, low, high }, index) => {
    const grid = shape.slice(-2);
    const values = halves(unit).subarray(index * area(grid), (index + 1) * area(grid));
    return { values: Float64Array.from(values, (v) => low[index] + v * (high[index] - low[index])), grid };
  };

  // The weights that one query gives to all keys, for one head or the mean over heads (head = null).
  const row = (layer, image, query, head = null) => {
    const { how, heads, width, scale, extra = 0, query_shape, key_shape, ...packed } = layers[layer].pairs;
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
      const [weights, places, n] = [halves(packed.weights), packed.places.flat(), packed.places[0].length];
      const from = places.indexOf(query); // window * n + position
      const window = from - (from % n);
      for (const h of chosen) {
        const start = ((image * heads + h) * places.length + from) * n;
        for (let to = 0; to < n; to++) if (places[window + to] >= 0) mean[places[window + to]] += weights[start + to] / chosen.length;
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

  // ---- what the page shows now; a place is kept as fractions, so that layers share it ----
  const state = { image: 0, layer: layers.length - 1, place: null, head: layers.map(() => null), channel: null, colors: Object.keys(data.colors)[0], smooth: true, marks: true };
  const cell = (fraction, extent) => Math.min(extent - 1, Math.floor(fraction * extent));
  const askable = (layer, image) => (layers[layer].pairs?.images ?? 0) > image;
  const gridOf = (layer) => (askable(layer, state.image) ? layers[layer].pairs.query_shape : layers[layer].heat.shape.slice(-2));
  const placeOf = (layer) => gridOf(layer).map((extent, axis) => cell(state.place[axis ? "x" : "y"], extent));
  const rowOf = (layer, head) => {
    const [y, x] = placeOf(layer);
    const { query_shape, key_shape } = layers[layer].pairs;
    return { values: row(layer, state.image, y * query_shape[1] + x, head), grid: key_shape };
  };
  const shown = (layer, image, head = state.head[layer]) => {
    if (layer === state.layer && image === state.image && state.channel !== null) return channel(layer, image, state.channel);
    if (state.place && image === state.image && askable(layer, image)) return rowOf(layer, head);
    if (head !== null && layers[layer].heads) return field(layers[layer].heads, image * layers[layer].heads.shape[1] + head);
    return field(layers[layer].heat, image);
  };
  const channel = (layer, image, k) => {
    const { features } = layers[layer].channels;
    return field(features, image * features.shape[1] + k);
  };

  // ---- painting ----
  const palettes = Object.fromEntries(Object.entries(data.colors).map(([name, hex]) => [name, Array.from({ length: 256 }, (_, i) => [0, 2, 4].map((c) => parseInt(hex.slice(6 * i + c, 6 * i + c + 2), 16)))]));
  // Smooth maps are interpolated between the centers of their cells; blocky ones are drawn cell by cell.
  const paint = (canvas, { values, grid: [rows, cols] }, side) => {
    const scale = state.smooth ? Math.max(1, side / Math.max(rows, cols)) : 1;
    const [height, width] = [Math.round(rows * scale), Math.round(cols * scale)];
    const along = (length, extent) => Array.from({ length }, (_, i) => {
      const at = Math.min(extent - 1, Math.max(0, ((i + 0.5) * extent) / length - 0.5));
      const first = Math.min(Math.max(0, extent - 2), Math.floor(at));
      return [first, Math.min(extent - 1, first + 1), at - first];
    });
    const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const [span, colors, picture] = [high - low || 1, palettes[state.colors], new ImageData(width, height)];
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

  // ---- marks: sampling grid, fixations, the chosen place ----
  const stage = one("[data-stage]");
  const svg = one("svg", stage);
  const draw = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  const twice = (path, kind) => ["under", "over"].forEach((half) => draw("path", { d: path, class: `${kind} ${half}` }));
  const mark = () => {
    const { grid, fixations, extents } = layers[state.layer];
    const box = stage.getBoundingClientRect();
    svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    svg.replaceChildren();
    const at = ([x, y]) => `${(x * box.width).toFixed(1)} ${(y * box.height).toFixed(1)}`;
    const line = (points) => "M" + points.map(at).join("L");
    if (grid && state.marks) twice(grid[state.image].flat().map(line).join(""), "thin");
    if (fixations && state.marks) {
      const places = fixations[state.image];
      const frames = extents.flatMap(([high, wide]) => places.map(([x, y]) => [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]].map(([dx, dy]) => [x + (dx * wide) / 2, y + (dy * high) / 2])));
      twice(frames.map(line).join(""), "thin");
      twice(line(places), "line");
      places.forEach(([x, y], i) => {
        draw("circle", { cx: x * box.width, cy: y * box.height, r: 10 });
        draw("text", { x: x * box.width, y: y * box.height }, i + 1);
      });
    }
    if (!state.place) return;
    const [[rows, cols], [y, x]] = [gridOf(state.layer), placeOf(state.layer)];
    const [h, w] = [box.height / rows, box.width / cols];
    const [cy, cx] = [(y + 0.5) * h, (x + 0.5) * w];
    const r = Math.max(7, Math.min(h, w) / 2);
    twice(`M${cx - r} ${cy}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0M${cx - r} ${cy}h-7M${cx + r} ${cy}h7M${cx} ${cy - r}v-7M${cx} ${cy + r}v7`, "line");
  };

  // ---- words ----
  const written = (value, digits = 3) => (value === 0 ? "0" : Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3 ? value.toExponential(digits - 1) : value.toPrecision(digits));
  const ABOUT = {
    spatial: "One weight for each place.",
    channel: "A gate of channels, which have no place of their own. The map shows the energy that they let through.",
    branch: "A choice among branches, not among places. The map shows the energy that they let through.",
    pairwise: "Every place compares itself with every other. The map shows the weight that each place receives.",
    "class token": "The map shows where the class token looks, from which the network answers.",
    window: "Every place compares itself with those in its window. The map shows the weight that each place receives.",
    grid: "Samples the image at the points of a grid. The map shows how densely.",
    fixation: "Looks at one place after the other, in the order of the numbers. The map counts what was seen.",
  };
  const about = (layer) => {
    const { kind, variant, pairs } = layers[layer];
    if (data.method === "grad_cam") return "Grad-CAM of the class that the network predicts.";
    const text = ABOUT[variant ?? kind] ?? "";
    if (!pairs) return text;
    return text + (askable(layer, state.image) ? " Click a place of the image to see where it looks." : " The places of this image cannot be asked; see below.");
  };
  const headName = (layer) => {
    const { heads } = layers[layer].pairs ?? {};
    if (!heads) return "";
    return heads === 1 ? " (its one head)" : state.head[layer] === null ? ` (mean of ${heads} heads)` : ` (head ${state.head[layer] + 1})`;
  };
  const describe = () => {
    const layer = state.layer;
    if (state.channel !== null) {
      const { top_channels, weights, count } = layers[layer].channels;
      const number = top_channels[state.image][state.channel];
      return `Channel ${number}, what its weight of ${halves(weights)[state.image * count + number].toFixed(3)} lets through.`;
    }
    if (!state.place) return askable(layer, state.image) ? `Click a place, or use the arrow keys${headName(layer)}.` : "Click a place to read its value.";
    const { values, grid: [rows, cols] } = shown(layer, state.image);
    const [y, x] = placeOf(layer);
    if (!askable(layer, state.image)) return `y=${y}, x=${x} of ${rows} × ${cols}: ${written(values[y * cols + x])}.`;
    const top = values.indexOf(values.reduce((a, b) => Math.max(a, b)));
    const mean = values.reduce((a, b) => a + b) / values.length;
    const times = mean > 0 ? `, ${written(values[top] / mean, 2)} times the mean` : "";
    return `y=${y}, x=${x} looks most at y=${Math.floor(top / cols)}, x=${top % cols} of ${rows} × ${cols}: weight ${written(values[top])}${times}${headName(layer)}.`;
  };

  // ---- the parts of the page ----
  const thumbnails = all(".images img");
  const source = (image) => thumbnails[image].src;
  const tile = (list, caption, label, press) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", onclick: press });
    const [span, picture, canvas] = ["span", "img", "canvas"].map((name) => document.createElement(name));
    span.className = "tile";
    picture.src = source(state.image);
    picture.alt = "";
    span.append(picture, canvas);
    const words = Object.assign(document.createElement("span"), { className: "caption", textContent: caption });
    button.setAttribute("aria-label", label);
    button.append(span, words);
    item.append(button);
    list.append(item);
    return { button, canvas };
  };
  const element = (name, attributes = {}, text = "") => {
    const node = Object.assign(document.createElement(name), { textContent: text });
    Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
    return node;
  };
  const titled = (text, aside) => {
    const title = element("h3", {}, text);
    title.append(element("small", {}, aside));
    return title;
  };
  // What a grid samples of the picture; between the rows that were kept it is interpolated.
  const sampled = (canvas, rows, aspect) => {
    const picture = thumbnails[state.image];
    const [width, height] = [picture.naturalWidth, picture.naturalHeight];
    const whole = new OffscreenCanvas(width, height).getContext("2d");
    whole.drawImage(picture, 0, 0);
    const pixels = whole.getImageData(0, 0, width, height).data;
    canvas.width = 240;
    canvas.height = Math.round((240 * height) / width / aspect);
    const context = canvas.getContext("2d");
    const made = context.createImageData(canvas.width, canvas.height);
    const between = (at, count) => [Math.floor(at * (count - 1)), Math.min(count - 1, Math.floor(at * (count - 1)) + 1), (at * (count - 1)) % 1];
    for (let i = 0; i < canvas.height; i++) {
      const [above, below, v] = between(i / (canvas.height - 1), rows.length);
      for (let j = 0; j < canvas.width; j++) {
        const [left, right, u] = between(j / (canvas.width - 1), rows[0].length);
        const [x, y] = [0, 1].map((axis) => (rows[above][left][axis] * (1 - u) + rows[above][right][axis] * u) * (1 - v) + (rows[below][left][axis] * (1 - u) + rows[below][right][axis] * u) * v);
        if (x < 0 || y < 0 || x >= 1 || y >= 1) continue; // outside there is nothing
        const from = 4 * (Math.floor(y * height) * width + Math.floor(x * width));
        made.data.set(pixels.subarray(from, from + 4), 4 * (i * canvas.width + j));
      }
    }
    context.putImageData(made, 0, 0);
  };
  let refresh = () => {}; // repaints the tiles of heads or channels

  const detail = () => {
    const box = one("[data-detail]");
    const { heads, channels, branches, grid, aspect } = layers[state.layer];
    box.replaceChildren();
    refresh = () => {};
    if (heads) {
      const list = element("ol", { class: "strip heads" });
      box.append(titled("Heads", ""), list);
      const each = [null, ...Array(heads.shape[1]).keys()].map((head) => ({ head, ...tile(list, head === null ? "mean" : String(head + 1), head === null ? "mean of the heads" : `head ${head + 1}`, () => { state.head[state.layer] = head; update(); }) }));
      refresh = () => each.forEach(({ head, button, canvas }) => {
        paint(canvas, shown(state.layer, state.image, head), 72);
        button.setAttribute("aria-pressed", String(state.head[state.layer] === head));
      });
    }
    if (branches) {
      const bars = element("div", { class: "bars", role: "list", "aria-label": "Shares of the branches" });
      branches[state.image].forEach((share, m) => {
        const bar = element("span");
        bar.append(element("i"));
        bar.firstChild.style.width = `${100 * share}%`;
        bars.append(element("span", {}, `branch ${m + 1}`), bar, element("span", {}, `${(100 * share).toFixed(1)}%`));
      });
      box.append(bars);
    }
    if (grid) {
      const canvas = element("canvas", { class: "sampled", role: "img", "aria-label": "What the grid samples of the image" });
      box.append(titled("Passed on", "what the grid samples"), canvas);
      sampled(canvas, grid[state.image][0], aspect);
    }
    if (channels) {
      const weights = halves(channels.weights).slice(state.image * channels.count, (state.image + 1) * channels.count);
      box.append(titled("Weights", `of all ${channels.count} channels, ${written(Math.min(...weights))} to ${written(Math.max(...weights))}, sorted`), profile([...weights].sort((a, b) => b - a)));
      if (channels.images > state.image) {
        const list = element("ol", { class: "strip channels" });
        box.append(titled("Strongest channels", "what passes, and the weight"), list);
        const each = channels.top_channels[state.image].map((number, k) => ({ k, ...tile(list, `${number}: ${weights[number].toFixed(2)}`, `channel ${number}, weight ${weights[number].toFixed(2)}`, () => { state.channel = state.channel === k ? null : k; update(); }) }));
        refresh = () => each.forEach(({ k, button, canvas }) => {
          paint(canvas, channel(state.layer, state.image, k), 72);
          button.setAttribute("aria-pressed", String(state.channel === k));
        });
      }
    }
  };
  const profile = (weights) => {
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const high = Math.max(...weights, 0) || 1;
    picture.setAttribute("class", "profile");
    picture.setAttribute("viewBox", `0 0 ${weights.length} 1`);
    picture.setAttribute("preserveAspectRatio", "none");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", "M0 1" + weights.map((w, i) => `L${i} ${1 - Math.max(0, w) / high}h1`).join("") + "V1Z");
    picture.append(path);
    return picture;
  };

  const tiles = [
    ...all("[data-layer]").map((button) => ({ button, canvas: one("canvas", button), layer: Number(button.dataset.layer) })),
    ...all("[data-image]").map((button) => ({ button, canvas: one("canvas", button), image: Number(button.dataset.image) })),
  ];
  // Scroll a list, and not the page, to its chosen tile.
  const reveal = (button) => {
    const list = button.closest("ol");
    const [its, box] = [button, list].map((node) => node.getBoundingClientRect());
    if (its.bottom > box.bottom || its.top < box.top) list.scrollTop += its.bottom - box.bottom + 8;
    if (its.right > box.right || its.left < box.left) list.scrollLeft += its.right - box.right + 24;
  };
  const update = () => {
    const [low, high] = paint(one("canvas", stage), shown(state.layer, state.image), 480);
    let digits = 3; // as many as tell the ends apart
    while (digits < 6 && low !== high && written(low, digits) === written(high, digits)) digits++;
    one("[data-low]").textContent = written(low, digits);
    one("[data-high]").textContent = written(high, digits);
    const even = high - low < 0.01 * Math.max(Math.abs(low), Math.abs(high));
    one("[data-state]").textContent = (even ? "Nearly the same everywhere. " : "") + describe();
    one("[data-reset]").disabled = !state.place && state.channel === null;
    tiles.forEach(({ button, canvas, layer = state.layer, image = state.image }) => {
      paint(canvas, shown(layer, image), 96);
      const chosen = layer === state.layer && image === state.image;
      button.setAttribute("aria-pressed", String(chosen));
      if (chosen) reveal(button);
    });
    refresh();
    mark();
  };
  const choose = ({ image = state.image, layer = state.layer }) => {
    Object.assign(state, { image, layer, channel: null });
    const { width, height, name } = images[image];
    const picture = one("img", stage);
    picture.src = source(image);
    [picture.width, picture.height] = [width, height];
    picture.alt = name;
    stage.style.setProperty("--aspect", width / height);
    all("[data-layer] img").forEach((thumbnail) => (thumbnail.src = source(image)));
    const { path, grid, fixations } = layers[layer];
    one("[data-layer-name]").textContent = path || data.title;
    one("[data-about]").textContent = about(layer);
    one("[data-marks]").hidden = !(grid || fixations);
    one("[data-marks] span").textContent = grid ? "grid" : "path";
    detail();
    update();
  };

  // ---- input ----
  const ask = (place) => {
    Object.assign(state, { place, channel: null });
    update();
  };
  const point = (event) => {
    const box = stage.getBoundingClientRect();
    const inside = (fraction) => Math.min(0.999999, Math.max(0, fraction));
    ask({ y: inside((event.clientY - box.top) / box.height), x: inside((event.clientX - box.left) / box.width) });
  };
  stage.addEventListener("click", point);
  stage.addEventListener("pointermove", (event) => event.buttons === 1 && event.pointerType === "mouse" && point(event));
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Enter: [0, 0], " ": [0, 0] };
  stage.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const grid = gridOf(state.layer);
    const here = state.place ? placeOf(state.layer) : grid.map((extent) => extent >> 1);
    const step = state.place ? (event.shiftKey ? 4 : 1) : 0;
    const [y, x] = grid.map((extent, axis) => (Math.min(extent - 1, Math.max(0, here[axis] + step * move[axis])) + 0.5) / extent);
    ask({ y, x });
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && ask(null));
  one("[data-reset]").addEventListener("click", () => ask(null));
  tiles.forEach(({ button, image, layer }) => button.addEventListener("click", () => choose({ image, layer })));
  const control = (name, event, change) => one(`[data-control="${name}"]`).addEventListener(event, (e) => change(e.target));
  const root = document.documentElement;
  const scale = () => {
    const stops = palettes[state.colors].filter((_, i) => i % 15 === 0).map((color) => `rgb(${color})`);
    one(".scale i").style.background = `linear-gradient(90deg, ${stops})`;
  };
  control("opacity", "input", (input) => root.style.setProperty("--opacity", input.value / 100));
  control("colors", "change", (select) => { state.colors = select.value; scale(); update(); });
  control("smooth", "change", (box) => { state.smooth = box.checked; root.classList.toggle("blocky", !box.checked); update(); });
  control("marks", "change", (box) => { state.marks = box.checked; mark(); });
  new ResizeObserver(mark).observe(stage);

  window.saccade = { state, row, field, layers };
  scale();
  Promise.all(thumbnails.map((picture) => picture.decode())).then(() => {
    choose({});
    root.dataset.ready = "true";
  });
})();
