(() => {
  const { data, all, one, element, press, status, hasRows, mapOf, paint } = heatmap;

  // ---- leaderboard: sort by a column; missing values stay last ----
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

  // ---- tables that are wider than the screen say so ----
  all(".scroll").forEach((box) => {
    const cut = () => box.classList.toggle("cut", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    box.addEventListener("scroll", cut);
    new ResizeObserver(cut).observe(box);
  });

  // ---- charts: hide attentions, read values, choose the cost ----
  const off = new Set();
  all("[data-toggle]").forEach((button) => {
    button.addEventListener("click", () => {
      const attention = button.dataset.toggle;
      off.has(attention) ? off.delete(attention) : off.add(attention);
      press(button, !off.has(attention));
      all(`.chart svg [data-attention="${attention}"]`).forEach((mark) => mark.classList.toggle("off", off.has(attention)));
    });
  });
  all("[data-chart]").forEach((figure) => {
    const chart = data.curves[figure.dataset.chart];
    const [svg, rule, readout] = [one("svg", figure), one(".rule", figure), one(".readout", figure)];
    const places = [...new Set(chart.lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    const hide = () => { readout.hidden = true; rule.setAttribute("visibility", "hidden"); };
    svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide()); // a finger leaves after a tap
    const read = (event) => {
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
      const title = element("small", {}, `epoch ${chart.epochs[places.indexOf(nearest)]}`);
      readout.replaceChildren(title, ...rows.map(([attention, point]) => {
        const row = element("div", { class: one(`[data-toggle="${attention}"]`).className });
        const number = chart.unit ? point[2].toFixed(2) + chart.unit : point[2].toPrecision(3);
        row.append(element("i", { class: "swatch" }), element("span", {}, data.labels[attention]), element("b", {}, number));
        return row;
      }));
      readout.hidden = false;
      const at = (nearest / width) * box.width;
      const right = at > box.width / 2;
      readout.style.left = right ? "auto" : `${at + 28}px`;
      readout.style.right = right ? `${box.width - at + 28}px` : "auto";
    };
    ["pointerdown", "pointermove"].forEach((name) => svg.addEventListener(name, read));
  });
  one("[data-scatter]").addEventListener("change", (event) => {
    all("[data-axis]").forEach((svg) => svg.toggleAttribute("hidden", svg.dataset.axis !== event.target.value));
  });

  // ---- gallery: one tile per image and attention; a column without a drawable map has no layer ----
  const { columns, layers, masks, segments } = data.gallery ?? { columns: [], layers: [], masks: null, segments: null };
  const sources = all(".shots .original img");
  const state = { query: null, head: columns.map(() => null), outline: true, segments: true };
  const hero = one(".hero .original img");
  if (hero) hero.src = sources[0].src;
  const tiles = all(":is(.shots, .hero) [data-column]").map((tile) => {
    const item = tile.closest(".hero, li");
    const [column, image] = [Number(tile.dataset.column), Number(item.dataset.image ?? 0)];
    const picture = one(".original img", item);
    one("img", tile).src = picture.src;
    const aspect = picture.getAttribute("height") / picture.getAttribute("width");
    return { tile, column, image, layer: layers[columns[column].layer], size: [200, 200 * aspect] };
  });

  const bits = masks && heatmap.bytes(masks.bits);
  const inMask = (image, y, x) => {
    const [height, width] = masks.shape;
    if (y < 0 || x < 0 || y >= height || x >= width) return false;
    const index = (image * height + y) * width + x;
    return Boolean(bits[index >> 3] & (128 >> (index & 7)));
  };
  const predicted = segments && segments.classes.map(heatmap.bytes);
  const classAt = (column, image, y, x) => {
    const [height, width] = segments.shape;
    return y < 0 || x < 0 || y >= height || x >= width ? 0 : predicted[column][(image * height + y) * width + x];
  };
  const outlines = new Map();
  // The border of every region; `at` returns the number of the region at a pixel, 0 for none.
  const outline = (key, at, [rows, cols], [width, height]) => {
    if (!outlines.has(key)) {
      const [sy, sx] = [height / rows, width / cols];
      let path = "";
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < cols; x++) {
          const own = at(y, x);
          if (!own) continue;
          const edges = [[y - 1, x, x, y, x + 1, y], [y + 1, x, x, y + 1, x + 1, y + 1], [y, x - 1, x, y, x, y + 1], [y, x + 1, x + 1, y, x + 1, y + 1]];
          for (const [ny, nx, ax, ay, bx, by] of edges) if (at(ny, nx) !== own) path += `M${ax * sx} ${ay * sy}L${bx * sx} ${by * sy}`;
        }
      }
      outlines.set(key, path);
    }
    return outlines.get(key);
  };
  const targetOutline = (image, size) => (masks && state.outline ? outline(`${image}`, (y, x) => Number(inMask(image, y, x)), masks.shape, size) : "");
  const predictedOutline = (column, image, size) => (segments && state.segments ? outline(`${column}/${image}`, (y, x) => classAt(column, image, y, x), segments.shape, size) : "");

  // The selected position holds for its tile and for all pairwise maps of the same image.
  const positionOf = ({ column, image, layer }) => {
    const { query } = state;
    return query?.image === image && layer && (query.column === column || hasRows(layer, image)) ? query : null;
  };
  const mark = (each) => {
    const { tile, column, image, layer, size } = each;
    const outlines = { outline: targetOutline(image, size), predicted: predictedOutline(column, image, size) };
    heatmap.marks(one("svg", tile), size, { layer, image, position: positionOf(each), ...outlines });
  };
  const draw = (each) => {
    const { tile, column, image, layer } = each;
    if (layer) paint(one("canvas", tile), mapOf(layer, image, positionOf(each), state.head[column]), 192);
    mark(each);
  };

  // ---- selecting positions and heads ----
  const onTarget = (image, { values, grid: [rows, cols] }) => {
    if (!masks) return null;
    const [height, width] = masks.shape;
    let [sum, any] = [0, false];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!inMask(image, y, x)) continue;
        any = true;
        sum += values[Math.floor((y * rows) / height) * cols + Math.floor((x * cols) / width)] * ((rows * cols) / (height * width));
      }
    }
    return any ? sum : null;
  };
  const describe = () => {
    const { query } = state;
    if (!query) {
      const heads = columns.flatMap(({ name, layer }, c) => (state.head[c] === null ? [] : [`${name}: ${heatmap.headName(layers[layer].heads.shape[1], state.head[c])}`]));
      return `Select a position in a map.${heads.length ? ` ${heads.join(", ")}.` : ""}`;
    }
    const { image, column } = query;
    const [layer, head] = [layers[columns[column].layer], state.head[column]];
    let text = `Image ${image + 1}, ${columns[column].name}: ${heatmap.describe(layer, image, query, head)}`;
    const fraction = hasRows(layer, image) ? onTarget(image, mapOf(layer, image, query, head)) : null;
    if (fraction !== null) text += `; ${(100 * fraction).toFixed(0)}% of the weight is on the target`;
    return text + ".";
  };
  const select = (query) => {
    const changed = [state.query?.image, query?.image];
    state.query = query;
    status(describe(), query);
    tiles.filter(({ image }) => changed.includes(image)).forEach(draw);
  };
  tiles.filter(({ tile }) => tile.hasAttribute("tabindex")).forEach((each) => {
    const { tile, column, image, layer } = each;
    heatmap.selectable(tile, () => ({ layer, image, position: positionOf(each) }), (position) => select({ ...position, image, column }));
  });
  heatmap.onReset(() => state.query && select(null));
  all("[data-head]").forEach((choice) => {
    choice.addEventListener("change", () => {
      const column = Number(choice.dataset.head);
      state.head[column] = choice.value === "" ? null : Number(choice.value);
      status(describe(), state.query);
      tiles.filter((each) => each.column === column).forEach(draw);
    });
  });

  // ---- controls ----
  heatmap.controls(() => tiles.forEach(draw), () => tiles.forEach(mark));
  heatmap.control("outline", "change", (box) => { state.outline = box.checked; tiles.forEach(mark); });
  heatmap.control("segments", "change", (box) => { state.segments = box.checked; tiles.forEach(mark); });
  const few = 3, shots = all(".shots > li"), more = one("[data-more]");
  const shown = { filter: "all", count: few };
  const list = () => {
    const keep = { all: () => true, wrong: (item) => item.dataset.wrong === "true" }[shown.filter] ?? ((item) => item.dataset.target === shown.filter);
    const kept = shots.filter(keep);
    shots.forEach((item) => (item.hidden = !kept.slice(0, shown.count).includes(item)));
    one("[data-empty]").hidden = kept.length > 0;
    more.hidden = kept.length <= shown.count;
    more.textContent = `Show ${kept.length - few} more`;
  };
  all("[data-filter]").forEach((button, _, buttons) => {
    button.addEventListener("click", () => {
      shown.filter = button.dataset.filter;
      buttons.forEach((other) => press(other, other === button));
      list();
    });
  });
  // On a narrow screen, the reader picks one attention.
  const only = one("[data-only]"), narrow = matchMedia("screen and (max-width: 820px)");
  const pick = () => {
    const column = narrow.matches ? only.value : "";
    const hide = (node, index) => (node.hidden = column !== "" && String(index) !== column);
    all(".columns > li:not(.original)").forEach(hide);
    all(".shots [data-column]").forEach((tile) => hide(tile.closest("figure"), tile.dataset.column));
    const attention = columns[column]?.attention;
    all("[data-removal]").forEach((figure) => (figure.hidden = attention !== undefined && figure.dataset.removal !== String(attention)));
  };
  if (only) {
    only.addEventListener("change", pick);
    narrow.addEventListener("change", pick);
    pick();
  }
  if (more) {  // there is a gallery
    more.addEventListener("click", () => { shown.count = Infinity; list(); });
    list();
  }

  window.saccade = { state, columns, layers, row: (layer, ...query) => heatmap.row(layers[layer].pairs, ...query) };
  heatmap.ready(sources, () => tiles.forEach(draw));
})();
