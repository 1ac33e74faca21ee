(() => {
  const { data, all, one, element, shape, press, halves, field, hasRows, mapOf, written, paint } = heatmap;
  const { layers, images } = data;
  const stage = one("[data-stage]");

  // ---- state of the page; the position is shared by all layers ----
  const state = { image: 0, layer: layers.length - 1, position: null, head: layers.map(() => null), channel: null };
  const channel = (layer, image, k) => {
    const { features } = layers[layer].channels;
    return field(features, image * features.shape[1] + k);
  };
  const shown = (layer, image, head = state.head[layer]) => {
    if (layer === state.layer && image === state.image && state.channel !== null) return channel(layer, image, state.channel);
    return mapOf(layers[layer], image, image === state.image ? state.position : null, head);
  };
  const mark = () => {
    const box = stage.getBoundingClientRect();
    const { width, height } = images[state.image];
    const enlarged = box.width >= 1.5 * width;
    one("[data-size]").textContent = `${width} × ${height} pixels${enlarged ? ", enlarged" : ""}`;
    stage.classList.toggle("tiny", enlarged && width < 200);
    heatmap.marks(one("svg", stage), [box.width, box.height], { layer: layers[state.layer], image: state.image, position: state.position });
  };

  // ---- text ----
  const touch = matchMedia("(hover: none)").matches;
  const CLICK = touch ? "Tap" : "Click";
  const ABOUT = {
    spatial: "One weight per position.",
    channel: "One weight per channel, not per position. The map shows how strong the weighted features are at each position.",
    branch: "One weight per branch, not per position. The map shows how strong the weighted branches are at each position.",
    pairwise: "Attention between all pairs of positions. The map shows the attention that each position receives.",
    "class token": "The map shows the attention of the class token, which feeds the classifier.",
    window: "Attention between the positions of each window. The map shows the attention that each position receives.",
    grid: "Samples the image at the points of a grid. The map shows the density of the samples.",
    fixation: "Fixates a sequence of locations, numbered in order. The map shows how often each pixel is covered.",
    temporal: "One weight per channel and frame. The map shows how strong the weighted frames are at each position.",
  };
  const about = ({ kind, variant, pairs, sinks, sink_share, outliers, outlier_count, outlier_share }) => {
    if (data.about) return data.about;
    const share = (shares) => Math.round(100 * shares[state.image]);
    const number = outliers ? outlier_count[state.image] : 0;
    const tokens = number === 1 ? "1 token of outlying norm receives" : `${number} tokens of outlying norm receive`;
    const text = (ABOUT[variant ?? kind] ?? "")
      + (sinks ? ` Attention sinks (circled) receive ${share(sink_share)}% of the attention.` : "")
      + (number ? ` ${tokens} ${share(outlier_share)}% of the attention; squares mark those with a place in the image.` : "");
    if (!pairs) return text;
    return text + (pairs.images > state.image ? ` ${CLICK} a position to see where it attends.` : " Positions of this image cannot be selected; see below.");
  };
  const describe = () => {
    const [layer, image] = [layers[state.layer], state.image];
    if (state.channel !== null) {
      const { top_channels, weights, count } = layer.channels;
      const number = top_channels[image][state.channel];
      return `Channel ${number}: features weighted by ${halves(weights)[image * count + number].toFixed(3)}.`;
    }
    const head = state.head[state.layer];
    if (state.position) return `${heatmap.describe(layer, image, state.position, head)}.`;
    if (!hasRows(layer, image)) return `${CLICK} a position to read its value.`;
    return `${CLICK} a position${touch ? "" : ", or use the arrow keys"} (${heatmap.headName(layer.pairs.heads, head)}).`;
  };

  // ---- elements ----
  const thumbnails = all(".images img");
  const source = (image) => thumbnails[image].src;
  let refresh = () => {}; // repaints the tiles of heads or channels
  // A list of tiles: each entry has a caption, a label, a map, and whether and how it is chosen.
  const strip = (kind, entries) => {
    const list = element("ol", { class: `strip ${kind}` });
    const tiles = entries.map(({ caption, label, choose, ...entry }) => {
      const item = element("li");
      const button = element("button", { type: "button", "aria-label": label });
      const [span, canvas] = [element("span", { class: "tile" }), element("canvas")];
      button.addEventListener("click", () => { choose(); update(); });
      span.append(element("img", { src: source(state.image), alt: "" }), canvas);
      button.append(span, element("span", { class: "caption" }, caption));
      item.append(button);
      list.append(item);
      return { ...entry, button, canvas };
    });
    refresh = () => tiles.forEach(({ button, canvas, map, chosen }) => {
      paint(canvas, map(), 72);
      press(button, chosen());
    });
    return list;
  };
  const titled = (text, aside) => {
    const title = element("h3", {}, text);
    title.append(element("small", {}, aside));
    return title;
  };
  // The output of a sampling grid, interpolated between the packed rows.
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
        if (x < 0 || y < 0 || x >= 1 || y >= 1) continue; // zero outside the image
        const from = 4 * (Math.floor(y * height) * width + Math.floor(x * width));
        made.data.set(pixels.subarray(from, from + 4), 4 * (i * canvas.width + j));
      }
    }
    context.putImageData(made, 0, 0);
  };

  const detail = () => {
    const box = one("[data-detail]");
    const { heads, channels, branches, grid, aspect } = layers[state.layer];
    box.replaceChildren();
    refresh = () => {};
    if (heads) {
      box.append(titled("Heads", ""), strip("heads", [null, ...Array(heads.shape[1]).keys()].map((head) => ({
        caption: head === null ? "mean" : head + 1,
        label: head === null ? "mean of the heads" : `head ${head + 1}`,
        map: () => shown(state.layer, state.image, head),
        chosen: () => state.head[state.layer] === head,
        choose: () => { state.head[state.layer] = head; },
      }))));
    }
    if (branches) {
      const bars = element("div", { class: "bars", role: "list", "aria-label": "Weights of the branches" });
      branches[state.image].forEach((share, m) => {
        const bar = element("span");
        bar.append(element("i"));
        bar.firstChild.style.width = `${100 * share}%`;
        bars.append(element("span", {}, `branch ${m + 1}`), bar, element("span", {}, `${(100 * share).toFixed(1)}%`));
      });
      box.append(bars);
    }
    if (grid) {
      const canvas = element("canvas", { class: "sampled", role: "img", "aria-label": "Output of the sampling grid" });
      box.append(titled("Output", "the sampled image"), canvas);
      sampled(canvas, grid[state.image][0], aspect);
    }
    if (channels) {
      const weights = halves(channels.weights).slice(state.image * channels.count, (state.image + 1) * channels.count);
      box.append(titled("Weights", `of ${channels.count} channels, ${written(Math.min(...weights))} to ${written(Math.max(...weights))}, sorted`), profile([...weights].sort((a, b) => b - a)));
      if (channels.images > state.image) {
        box.append(titled("Strongest channels", "weighted features, and the weight"), strip("channels", channels.top_channels[state.image].map((number, k) => ({
          caption: `${number}: ${weights[number].toFixed(2)}`,
          label: `channel ${number}, weight ${weights[number].toFixed(2)}`,
          map: () => channel(state.layer, state.image, k),
          chosen: () => state.channel === k,
          choose: () => { state.channel = state.channel === k ? null : k; },
        }))));
      }
    }
  };
  const profile = (weights) => {
    const high = Math.max(...weights, 0) || 1;
    const picture = shape("svg", { class: "profile", viewBox: `0 0 ${weights.length} 1`, preserveAspectRatio: "none" });
    picture.append(shape("path", { d: "M0 1" + weights.map((w, i) => `L${i} ${1 - Math.max(0, w) / high}h1`).join("") + "V1Z" }));
    return picture;
  };

  const tiles = [
    ...all("[data-layer]").map((button) => ({ button, canvas: one("canvas", button), layer: Number(button.dataset.layer) })),
    ...all("[data-image]").map((button) => ({ button, canvas: one("canvas", button), image: Number(button.dataset.image) })),
  ];
  // Scroll a list, and not the page, to the selected tile.
  const reveal = (button) => {
    const list = button.closest("ol");
    const [own, box] = [button, list].map((node) => node.getBoundingClientRect());
    if (own.bottom > box.bottom || own.top < box.top) list.scrollTop += own.bottom - box.bottom + 8;
    if (own.right > box.right || own.left < box.left) list.scrollLeft += own.right - box.right + 24;
  };
  const update = () => {
    const [low, high] = paint(one("canvas", stage), shown(state.layer, state.image), 480);
    let digits = 3; // as many as distinguish the ends of the scale
    while (digits < 6 && low !== high && written(low, digits) === written(high, digits)) digits++;
    one("[data-low]").textContent = written(low, digits);
    one("[data-high]").textContent = written(high, digits);
    const even = high - low < 0.01 * Math.max(Math.abs(low), Math.abs(high));
    heatmap.status((even ? "Nearly constant. " : "") + describe(), state.position || state.channel !== null);
    tiles.forEach(({ button, canvas, layer = state.layer, image = state.image }) => {
      paint(canvas, shown(layer, image), 96);
      const chosen = layer === state.layer && image === state.image;
      press(button, chosen);
      if (chosen) reveal(button);
    });
    refresh();
    mark();
  };
  const choose = ({ image = state.image, layer = state.layer }) => {
    Object.assign(state, { image, layer, channel: null });
    const { width, height, name, caption } = images[image];
    one("[data-subject]").textContent = caption;
    Object.assign(one("img", stage), { src: source(image), width, height, alt: name });
    stage.style.setProperty("--aspect", width / height);
    all("[data-layer] img").forEach((thumbnail) => (thumbnail.src = source(image)));
    const { path, grid, fixations, sinks, outliers } = layers[layer];
    one("[data-layer-name]").textContent = path || data.title;
    one("[data-about]").textContent = about(layers[layer]);
    one("[data-marks]").hidden = !(grid || fixations || sinks || outliers);
    one("[data-marks] span").textContent = grid ? "grid" : fixations ? "path" : "sinks";
    detail();
    update();
  };

  // ---- input ----
  const select = (position) => {
    Object.assign(state, { position, channel: null });
    update();
  };
  heatmap.selectable(stage, () => ({ layer: layers[state.layer], image: state.image, position: state.position }), select);
  heatmap.onReset(() => select(null));
  heatmap.controls(update, mark);
  tiles.forEach(({ button, image, layer }) => button.addEventListener("click", () => choose({ image, layer })));
  new ResizeObserver(mark).observe(stage);

  window.saccade = { state, layers, row: (layer, ...query) => heatmap.row(layers[layer].pairs, ...query) };
  heatmap.ready(thumbnails, () => choose({}));
})();
